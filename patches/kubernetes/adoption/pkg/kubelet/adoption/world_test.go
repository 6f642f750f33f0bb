package adoption

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/ioutil"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"
)

// world is a node without a kubelet: a runtime, images, a folder for the state.
type world struct {
	t          *testing.T
	path       string
	ended      []Pod
	images     map[string]string // name -> id
	containers map[string]*born
	next       int
	settle     time.Duration
	last       *Adoption
	silent     bool
	asked      int
}

// born is a container as it was made.
type born struct {
	pod, name, image, command string
	imageID                   string
	hash                      uint64
}

func newWorld(t *testing.T) *world {
	folder, err := ioutil.TempDir("", "adoption")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, path: filepath.Join(folder, "version-cache.json"),
		images: map[string]string{}, containers: map[string]*born{}}
	os.Setenv("NOKMEM_ADOPTION_FILE", w.path)
	os.Setenv("NOKMEM_ADOPTION", "")
	w.settle = 20 * time.Millisecond
	return w
}

func (w *world) end() {
	w.kill()
	os.RemoveAll(filepath.Dir(w.path))
}

// kill ends the kubelet that runs: what it has not written is lost.
func (w *world) kill() {
	if w.last != nil {
		w.last.writing.Lock()
		w.last.mu.Lock()
		w.last.memory = true
		w.last.mu.Unlock()
		w.last.writing.Unlock()
	}
	w.last = nil
}

// process is a kubelet of that build that has not begun yet.
func (w *world) process(build string) *Adoption {
	w.kill()
	Build = build
	w.last = &Adoption{pause: time.Millisecond, settle: w.settle, retry: 20 * time.Millisecond}
	return w.last
}

// hash is what a release makes of a container: builds of one minor agree, others do not.
func hash(build, name, image, command string) uint64 {
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%.5s|%s|%s|%s", build, name, image, command)
	return uint64(sum.Sum32())
}

func (w *world) image(name string) string {
	if w.images[name] == "" {
		w.images[name] = fmt.Sprintf("sha256:%d", len(w.images))
	}
	return w.images[name]
}

// run makes a container as a kubelet of that build would.
func (w *world) run(build, pod, name, image, command string) string {
	w.next++
	id := fmt.Sprintf("docker://%d", w.next)
	w.containers[id] = &born{pod, name, image, command, w.image(image), hash(build, name, image, command)}
	return id
}

func (w *world) Running() ([]Pod, error) {
	w.asked++
	if w.silent {
		return nil, errors.New("the runtime does not answer")
	}
	pods := map[string]*Pod{}
	for id, one := range w.containers {
		if pods[one.pod] == nil {
			pods[one.pod] = &Pod{UID: one.pod, Namespace: "default", Name: podName(one.pod), Sandboxes: []string{"s-" + one.pod}}
		}
		pods[one.pod].Containers = append(pods[one.pod].Containers, id)
	}
	list := append([]Pod{}, w.ended...)
	for _, pod := range pods {
		sort.Strings(pod.Containers)
		list = append(list, *pod)
	}
	return list, nil
}

// podName is the part of a UID before its dot: tests name pods so.
func podName(uid string) string {
	for i := range uid {
		if uid[i] == '.' {
			return uid[:i]
		}
	}
	return uid
}

func (w *world) Names(image string) ([]string, error) {
	if w.silent {
		return nil, errors.New("the runtime does not answer")
	}
	if w.images[image] == "" {
		return nil, nil
	}
	return []string{w.images[image]}, nil
}

// name is what the runtime reports as a container's image: a name that has its id now, or the id.
func (w *world) name(one *born) string {
	if w.images[one.image] == one.imageID {
		return one.image
	}
	return one.imageID
}

// start is a kubelet of that build on this node.
func (w *world) start(build string) *Adoption {
	a := w.process(build)
	if err := a.Begin(w); err != nil {
		w.t.Fatal(err)
	}
	return a
}

// changed tells what the kubelet would do to a container whose pod asks for that.
func (w *world) changed(a *Adoption, id, image, command string) bool {
	one := w.containers[id]
	return a.Expected(Container{
		ID: id, Expected: hash(a.build, one.name, image, command), Actual: one.hash,
		Spec: image, Image: w.name(one), ImageID: "docker-pullable://" + one.imageID,
	}) != one.hash
}

func (w *world) write(text string) {
	if err := ioutil.WriteFile(w.path, []byte(text), 0600); err != nil {
		w.t.Fatal(err)
	}
}

// seed is what the node script writes before the first kubelet of this kind starts.
func (w *world) seed(build string) {
	w.write(fmt.Sprintf(`{"schema": 1, "build": %q, "containers": {}, "manifests": {}}`, build))
}

func (w *world) stored() *state {
	found, wrong := read(w.path)
	if wrong != nil {
		w.t.Fatal(wrong.why)
	}
	return found
}

func (a *Adoption) flush() {
	a.mu.Lock()
	a.saveNow()
	a.mu.Unlock()
}

func eventually(t *testing.T, what string, holds func() bool) {
	for i := 0; i < 2000; i++ {
		if holds() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never came true: " + what)
}
