package adoption

import (
	"crypto/sha256"
	"fmt"
	"io/ioutil"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The two promises, played against random days of a node: nothing restarts that nobody changed,
// and nothing that somebody changed is hidden.

// promised is what somebody wants to run: an API pod, of which only images can change, or a
// static pod with a UID of the kubelet's making or of its own, of which all can.
type promised struct {
	name       string
	kind       string // api, static, explicit
	image      []string
	command    string
	revision   int // of the manifest's text
	containers []string
	uid        string
	made       []int // the revision of which each container was made
}

func (p *promised) text() string {
	return fmt.Sprint(p.name, p.image, p.command, p.revision)
}

func (p *promised) natural(build string) string {
	switch p.kind {
	case "static":
		return fmt.Sprintf("%s.%.5s-%x", p.name, build, hash("", p.text(), "", ""))
	case "explicit":
		return p.name
	}
	return p.name + ".api"
}

type day struct {
	*world
	random      *rand.Rand
	kubelet     *Adoption
	build       string
	damaged     bool // and no kubelet has read the manifests since
	synced      bool // since it began: all sources are ready
	pods        []*promised
	forgiven    map[string]string // container -> the command that came with a damage: only images are known
	story       []string
	seen, noted map[string]bool // containers seen in order; of these, that a state says so
}

func (d *day) tell(format string, values ...interface{}) {
	d.story = append(d.story, fmt.Sprintf(format, values...))
}

func (d *day) broken(format string, values ...interface{}) {
	d.t.Fatalf("%s\n%s", fmt.Sprintf(format, values...), strings.Join(d.story, "\n"))
}

var builds = []string{"v1.10.13+nokmem.1", "v1.15.3+nokmem.1", "v1.15.3+nokmem.2", "v1.16.15+nokmem.1", "v1.17.17+nokmem.1"}

func (d *day) start() {
	if d.kubelet != nil {
		return
	}
	if d.random.Intn(3) == 0 {
		d.build = builds[d.random.Intn(len(builds))]
	}
	d.tell("start %s", d.build)
	d.kubelet, d.synced = d.world.start(d.build), false
}

func (d *day) stop() {
	if d.kubelet != nil {
		d.tell("stop")
		d.flush()
		d.crash()
	}
}

func (d *day) flush() {
	d.kubelet.flush()
	for id := range d.seen {
		d.noted[id] = true
	}
}

func (d *day) crash() {
	if d.kubelet != nil {
		d.tell("gone")
		d.seen = map[string]bool{}
		d.kill()
		d.kubelet = nil
	}
}

func (d *day) sync() {
	if d.kubelet == nil {
		return
	}
	d.tell("sync")
	d.damaged, d.synced = false, true
	for _, p := range d.pods {
		uid := p.natural(d.build)
		if p.kind != "api" {
			path := d.manifest(p)
			d.kubelet.ReadManifest(path, []byte(p.text()))
			uid = d.kubelet.StaticUID(path, "default", p.name, uid)
		}
		if p.uid != uid {
			for i := range p.containers {
				if p.containers[i] != "" && p.made[i] == p.revision {
					d.broken("static pod %s restarts: it was %s, it is %s", p.name, p.uid, uid)
				}
				delete(d.containers, p.containers[i])
				p.containers[i] = ""
			}
			p.uid = uid
		}
		for i, id := range p.containers {
			if id == "" {
				p.containers[i], p.made[i] = d.run(d.build, uid, fmt.Sprint("c", i), p.image[i], p.command), p.revision
				continue
			}
			one := d.containers[id]
			real := one.image != p.image[i] || one.command != p.command
			moved := d.images[p.image[i]] != one.imageID
			unknown := moved && !d.noted[id] // to a kubelet that never saw the pod in order
			// A manifest with a UID of its own is one thing: where the hash is another build's,
			// any edit of it counts for all its containers.
			edited := p.kind == "explicit" && p.made[i] != p.revision
			if d.changed(d.kubelet, id, p.image[i], p.command) {
				if !real && !unknown && !edited {
					d.broken("%s of %s restarts unchanged", id, p.name)
				}
				delete(d.containers, id)
				p.containers[i], p.made[i] = d.run(d.build, uid, fmt.Sprint("c", i), p.image[i], p.command), p.revision
			} else if !real {
				d.seen[id] = true
			} else if one.image != p.image[i] && moved {
				d.broken("%s of %s: its new image is hidden", id, p.name)
			} else if one.command != p.command && d.forgiven[id] != p.command {
				d.broken("%s of %s: its new command is hidden", id, p.name)
			}
		}
	}
}

// manifest is where a static pod's lies; what it says is of no matter there.
func (d *day) manifest(p *promised) string {
	path := d.path + "-" + p.name + ".yaml"
	if err := ioutil.WriteFile(path, nil, 0600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *day) edit() {
	p := d.pods[d.random.Intn(len(d.pods))]
	p.revision++
	if p.kind == "api" || d.random.Intn(2) == 0 {
		p.image[d.random.Intn(len(p.image))] = fmt.Sprint("app:", d.random.Intn(6))
	} else {
		p.command = fmt.Sprint("run", d.random.Intn(1000))
	}
	for _, image := range p.image {
		d.image(image)
	}
	d.tell("edit %s: %v %s", p.name, p.image, p.command)
	if d.damaged {
		d.forgive()
	}
}

func (d *day) reboot() {
	d.tell("reboot")
	d.crash()
	d.containers = map[string]*born{}
	for _, p := range d.pods {
		for i := range p.containers {
			p.containers[i] = ""
		}
	}
}

// forgive notes what no kubelet could tell from what runs.
func (d *day) forgive() {
	for _, p := range d.pods {
		for _, id := range p.containers {
			d.forgiven[id] = p.command
		}
	}
}

func (d *day) damage() {
	if d.kubelet != nil {
		return
	}
	d.tell("damage")
	d.damaged = true
	d.noted = map[string]bool{}
	d.forgive()
	switch d.random.Intn(3) {
	case 0:
		os.Remove(d.path)
	case 1:
		text, _ := ioutil.ReadFile(d.path)
		d.write(string(text[:len(text)/2]))
	case 2:
		os.Chmod(d.path, 0666)
	}
}

// asStock is a time with an unpatched kubelet, which restarts what it likes, and the node
// script's seed before the next patched one.
func (d *day) asStock() {
	d.stop()
	build := builds[d.random.Intn(len(builds))][:7]
	d.tell("stock %s", build)
	manifests := []string{}
	for _, p := range d.pods {
		uid := p.natural(build)
		for i, id := range p.containers {
			one := d.containers[id]
			if one == nil || p.uid != uid || one.hash != hash(build, one.name, p.image[i], p.command) {
				delete(d.containers, id)
				p.containers[i], p.made[i] = d.run(build, uid, fmt.Sprint("c", i), p.image[i], p.command), p.revision
			}
			p.made[i] = p.revision
		}
		p.uid = uid
		if p.kind != "api" {
			manifests = append(manifests, fmt.Sprintf("%q: {\"sha256\": %q}", d.manifest(p), fmt.Sprintf("%x", sha256.Sum256([]byte(p.text())))))
		}
	}
	d.noted = map[string]bool{}
	os.Remove(d.path)
	d.write(fmt.Sprintf(`{"schema": 1, "build": %q, "manifests": {%s}}`, build, strings.Join(manifests, ", ")))
	d.damaged = false
}

func TestModel(t *testing.T) {
	days := 300
	if asked, err := strconv.Atoi(os.Getenv("ADOPTION_DAYS")); err == nil {
		days = asked
	}
	for seed := int64(0); seed < int64(days); seed++ {
		w := newWorld(t)
		w.settle = time.Hour // only what is flushed is written: a crash loses the rest
		os.Setenv("NOKMEM_ADOPTION", "required")
		d := &day{world: w, forgiven: map[string]string{}, seen: map[string]bool{}, noted: map[string]bool{}, random: rand.New(rand.NewSource(seed)), build: builds[0]}
		d.tell("day %d", seed)
		for i, kind := range []string{"api", "api", "static", "explicit"} {
			p := &promised{name: fmt.Sprint("p", i), kind: kind, image: []string{"app:0", "app:1"},
				containers: make([]string, 2), made: make([]int, 2)}
			d.pods = append(d.pods, p)
		}
		d.image("app:0")
		d.image("app:1")
		d.asStock()
		for step := 0; step < 60; step++ {
			switch d.random.Intn(12) {
			case 0, 1, 2:
				d.start()
			case 3, 4, 5:
				d.sync()
			case 6:
				d.stop()
			case 7:
				d.crash()
			case 8:
				d.edit()
			case 9:
				if d.kubelet != nil {
					d.tell("sweep")
					d.kubelet.Sweep(d.synced)
				}
			case 10:
				if d.kubelet != nil && d.random.Intn(2) == 0 {
					d.flush()
				}
				when := time.Unix(d.random.Int63n(4e9), 0) // the clock jumps
				os.Chtimes(d.path, when, when)
			case 11:
				switch d.random.Intn(8) {
				case 0:
					d.reboot()
				case 1, 2:
					d.damage()
				case 3:
					d.asStock()
				case 4:
					d.tell("move a tag")
					d.images["app:0"] = fmt.Sprint("sha256:moved", step)
				}
			}
		}
		w.end()
	}
}
