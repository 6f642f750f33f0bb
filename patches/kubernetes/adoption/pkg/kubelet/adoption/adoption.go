// Package adoption lets a kubelet take over the containers of another build of itself.
//
// A container's hash is computed differently by different releases, so a kubelet that replaces
// another one would restart containers that nobody changed. Here the containers that run when
// another build takes over are known by their ids: the first hash that this build expects of each
// is recorded, and from then on only another hash is a change. Ids that were not there at the
// takeover are never exempt. No rule looks at a clock.
//
// Nothing happens on a node that has neither the state file nor the mark (see open in state.go).
// The package knows no type of Kubernetes and no other package than Go's own, so that one text
// serves every release.
package adoption

import (
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"
)

// Build is the id of this kubelet, its version and what was patched: v1.17.17+nokmem.1. The
// build writes it into stamp.go; without it nothing is ever adopted.
var Build string

// Node is this node's adoption; the hooks in the kubelet call it.
var Node = &Adoption{}

// NodeKnown tells whether the node's own object was read; nil before Begin.
var NodeKnown func() bool

// Pod is what a complete listing of the runtime says of one pod: the ids of what runs, none where
// it ended.
type Pod struct {
	UID, Namespace, Name string
	Sandboxes            []string
	Containers           []string
}

// Runtime answers for the container runtime.
type Runtime interface {
	// Running lists every pod of which there is anything, or fails.
	Running() ([]Pod, error)
	// Names gives all names of the local image that `image` resolves to, its id among them;
	// none where there is no such image.
	Names(image string) ([]string, error)
}

// Container is one running container as the kubelet sees it while it syncs its pod. Spec is the
// image that the pod asks for, Image and ImageID are what the runtime reports.
type Container struct {
	ID               string
	Expected, Actual uint64
	Spec             string
	Image, ImageID   string
}

// Adoption is the state of one kubelet process. Its zero value is ready to use.
type Adoption struct {
	opening sync.Once
	waiting sync.Once
	gaveUp  bool   // on Begin, by await
	active  bool   // there is something to keep to; never changes after open
	path    string // of the state file
	memory  bool   // the file is not ours to write
	build   string // this one's
	begun   chan struct{}
	dirty   chan struct{}
	runtime Runtime

	// How long to wait until the runtime is asked again, until changes are written, and until a
	// failed write is tried again.
	pause, settle, retry time.Duration

	writing sync.Mutex // taken before mu

	mu        sync.Mutex
	state     state
	running   map[string]bool     // container ids when this process began
	sandboxes map[string]bool     // sandbox ids of that moment
	uids      map[string][]string // namespace/name -> UIDs with a ready sandbox, else those that ended
	members   map[string][]string // UID -> container ids of that moment
	asked     map[string]bool     // UIDs that were admitted since
	digests   map[string]string   // manifest path -> sha256 of what was read last
	listed    map[string]bool     // what the last sweep saw
	complete  bool                // whether that listing was made while all sources were ready
	counts    map[string]uint64
	said      map[string]time.Time
}

// Begin takes the generation if another build ran before. The runtime must answer; an error ends
// the kubelet, as upstream does when its runtime does not answer.
func (a *Adoption) Begin(runtime Runtime) error {
	if !a.Active() {
		return nil
	}
	pods, err := a.listing(runtime)
	if err != nil {
		return fmt.Errorf("nokmem: which containers run could not be learned, and without that "+
			"they cannot be kept (NOKMEM_ADOPTION=off starts without keeping any): %v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runtime = runtime
	a.running, a.sandboxes = map[string]bool{}, map[string]bool{}
	a.uids, a.members = map[string][]string{}, map[string][]string{}
	ended := map[string][]string{}
	for _, pod := range pods {
		a.members[pod.UID] = pod.Containers
		for _, id := range pod.Containers {
			a.running[id] = true
		}
		for _, id := range pod.Sandboxes {
			a.sandboxes[id] = true
		}
		uids, key := a.uids, pod.Namespace+"/"+pod.Name
		if len(pod.Sandboxes) == 0 {
			uids = ended
		}
		uids[key] = append(uids[key], pod.UID)
	}
	for key, uids := range ended {
		if len(a.uids[key]) == 0 {
			a.uids[key] = uids
		}
	}
	if a.state.Build != a.build {
		log.Printf("nokmem: %s takes over from %s: %d running containers are kept",
			a.build, orUnknown(a.state.Build), len(a.running))
		for id := range a.running {
			if a.state.Containers[id] == nil {
				a.state.Containers[id] = &entry{}
			}
		}
		a.state.Build, a.state.Retired = a.build, false
		a.saveNow()
	}
	go a.saveLater()
	close(a.begun)
	return nil
}

// listing asks until there is an answer, ten times at most and for two minutes at most.
func (a *Adoption) listing(runtime Runtime) (pods []Pod, err error) {
	began := time.Now()
	for try := 0; try < 10 && time.Since(began) < 2*time.Minute; try++ {
		if pods, err = runtime.Running(); err == nil {
			return pods, nil
		}
		time.Sleep(a.pause)
	}
	return nil, err
}

// Active tells whether this node keeps to anything; it reads the state at its first call.
func (a *Adoption) Active() bool {
	a.opening.Do(a.open)
	return a.active
}

// Expected gives the hash to hold a running container against: the upstream one, or, for a
// container that is kept, the one that it already has.
func (a *Adoption) Expected(c Container) uint64 {
	if !a.Active() {
		return c.Expected
	}
	a.mu.Lock()
	if c.Expected == c.Actual && a.state.Images[c.ID] != c.Spec {
		a.state.Images[c.ID] = c.Spec
		a.touch()
	}
	kept := a.state.Containers[c.ID]
	if kept == nil || a.runtime == nil {
		a.mu.Unlock()
		return c.Expected
	}
	recorded, decided := kept.Expected[a.build]
	switch {
	case decided && recorded == c.Expected:
		a.mu.Unlock()
		return c.Actual
	case decided:
		a.release(c.ID, "changed")
		a.mu.Unlock()
		log.Printf("nokmem: container %s: its definition changed, it is restarted", c.ID)
		return c.Expected
	case c.Expected == c.Actual:
		if len(kept.Expected) == 0 {
			a.release(c.ID, "same")
		} else {
			a.record(kept, c.Expected)
		}
		a.mu.Unlock()
		return c.Expected
	}
	asked := a.state.Images[c.ID]
	a.mu.Unlock()

	same, err := a.sameImage(c, asked)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.complain("runtime", "container %s is kept; whether its image changed is not known yet: %v", c.ID, err)
		return c.Actual
	}
	kept = a.state.Containers[c.ID]
	if kept == nil {
		return c.Expected
	}
	if !same {
		a.release(c.ID, "changed")
		log.Printf("nokmem: container %s runs %s (%s), its pod asks for %s: it is restarted",
			c.ID, c.Image, c.ImageID, c.Spec)
		return c.Expected
	}
	a.record(kept, c.Expected)
	a.state.Images[c.ID] = c.Spec
	a.count("adopted")
	return c.Actual
}

func (a *Adoption) record(kept *entry, expected uint64) {
	if kept.Expected == nil {
		kept.Expected = map[string]uint64{}
	}
	kept.Expected[a.build] = expected
	a.touch()
}

func (a *Adoption) release(id, why string) {
	delete(a.state.Containers, id)
	a.count(why)
	a.touch()
}

// sameImage tells whether the image that the spec names is the one that runs: what the pod `asked`
// for when that was last seen, or, where it never was, what the runtime calls what runs or resolves
// to it. There a tag that was moved cannot be told from a change.
func (a *Adoption) sameImage(c Container, asked string) (bool, error) {
	if asked != "" || plain(c.Spec) == plain(c.Image) {
		return asked == "" || asked == c.Spec, nil
	}
	names, err := a.runtime.Names(c.Spec)
	if err != nil {
		return false, err
	}
	runs := c.ImageID
	if scheme := strings.Index(runs, "://"); scheme >= 0 { // docker-pullable://, docker://
		runs = runs[scheme+len("://"):]
	}
	for _, name := range names {
		if name != "" && (name == runs || name == c.Image || name == c.ImageID) {
			return true, nil
		}
	}
	return false, nil
}

// plain is an image's name without what runtimes add to it.
func plain(image string) string {
	image = strings.TrimPrefix(strings.TrimPrefix(image, "docker.io/"), "library/")
	if !strings.Contains(image[strings.LastIndex(image, "/")+1:], ":") {
		image += ":latest"
	}
	return image
}

// Sweep lets go of what vanished. Once nothing is left, the sources are all ready and two complete
// listings in a row agree, the state is retired: the build's id stays, and so do the manifests.
func (a *Adoption) Sweep(ready bool) {
	if !a.Active() {
		return
	}
	a.mu.Lock()
	a.remind()
	runtime := a.runtime
	a.mu.Unlock()
	if runtime == nil {
		return
	}
	pods, err := runtime.Running()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.complain("runtime", "which containers run could not be learned: %v", err)
		return
	}
	listed := map[string]bool{}
	for _, pod := range pods {
		for _, id := range pod.Containers {
			listed[id] = true
		}
	}
	before := a.listed
	a.listed = listed
	agree := before != nil && len(before) == len(listed)
	for id := range listed {
		agree = agree && before[id]
	}
	gone := func(id string) bool { return before != nil && !before[id] && !listed[id] }
	for id := range a.state.Containers {
		if gone(id) {
			a.release(id, "vanished")
		}
	}
	for id := range a.state.Images {
		if gone(id) {
			delete(a.state.Images, id)
			a.touch()
		}
	}
	for path := range a.state.Manifests {
		if _, err := os.Lstat(path); ready && os.IsNotExist(err) {
			delete(a.state.Manifests, path)
			a.touch()
		}
	}
	if ready && a.state.Recovered {
		a.state.Recovered = false
		a.touch()
	}
	agree, a.complete = agree && a.complete, ready
	if ready && agree && len(a.state.Containers) == 0 && !a.state.Retired {
		a.state.Retired = true
		a.touch()
		log.Printf("nokmem: no container of another build is left; %s is retired", a.path)
	}
}

// Asks tells whether a pod that asks for admission ran when this kubelet began. Once: one that was
// taken away and comes back is as new.
func (a *Adoption) Asks(uid string) bool {
	if !a.Active() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asked[uid] {
		delete(a.members, uid)
	}
	a.asked[uid] = true
	return len(a.members[uid]) > 0
}

// Admits tells whether a pod that admission rejects is let in because it ran when this kubelet
// began, and reports the reason for which it would have been killed.
func (a *Adoption) Admits(uid, pod, reason, message string) bool {
	if !a.Active() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.members[uid]) == 0 {
		return false
	}
	a.count("admitted")
	log.Printf("nokmem: pod %s runs and is kept, though it would not be admitted anew: %s: %s", pod, reason, message)
	return true
}

// Ran tells whether a container ran when this kubelet began.
func (a *Adoption) Ran(id string) bool {
	if !a.Active() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running[id]
}

// KeepsSandbox tells whether a sandbox without an address is kept, because it was ready when this
// kubelet began and has had none since: it is the network plugin that does not answer. The caller
// has seen that a container runs in it.
func (a *Adoption) KeepsSandbox(id, address string) bool {
	if !a.Active() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if address != "" {
		delete(a.sandboxes, id)
	}
	if a.sandboxes[id] {
		a.complain("address", "sandbox %s reports no address and is kept; look at the network plugin", id)
	}
	return a.sandboxes[id]
}

// ReadManifest remembers what a static pod's manifest says now.
func (a *Adoption) ReadManifest(path string, data []byte) {
	if !a.Active() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.digests[path] = fmt.Sprintf("%x", sha256.Sum256(data))
}

// StaticUID gives the UID of a static pod: the one that it had under another build as long as its
// manifest is the same byte for byte, and `natural`, upstream's, for good once it was changed.
func (a *Adoption) StaticUID(path, namespace, name, natural string) string {
	if !a.Active() || !a.await(staticPatience) {
		return natural
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	digest := a.digests[path]
	if digest == "" {
		return natural
	}
	known, found := a.state.Manifests[path]
	uids := a.uids[namespace+"/"+name]
	runs := len(uids) == 1 && uids[0] != natural
	switch {
	case !found && !a.state.Recovered:
		known.UID = natural
	case found && known.SHA256 != digest:
		if known.Build != a.build || known.Natural != natural { // more than a comment, a blank
			known.UID = natural
		}
		for _, id := range a.members[natural] { // of an explicit UID: only the hash can tell
			if kept := a.state.Containers[id]; kept != nil && !kept.decided(a.build) {
				a.release(id, "changed")
			}
		}
	case known.UID == "" && runs:
		known.UID = uids[0]
	case known.UID == "" || len(uids) == 1 && !runs: // it was made anew while nothing was adopted
		known.UID = natural
	}
	known.SHA256, known.Build, known.Natural = digest, a.build, natural
	if known != a.state.Manifests[path] {
		a.state.Manifests[path] = known
		a.saveNow()
	}
	return known.UID
}

// Await lets the API's first pods wait until `known` says that the node's own labels are there, or
// for patience; without that, pods of this node would be judged by labels that were not read yet.
func (a *Adoption) Await(known func() bool, patience time.Duration) {
	if !a.Active() {
		return
	}
	a.waiting.Do(func() {
		begun := a.await(patience)
		for waited := time.Duration(0); begun && !known() && waited < patience; waited += a.pause {
			time.Sleep(a.pause)
		}
	})
}

// staticPatience bounds the wait of the manifests for a runtime that never answers.
const staticPatience = 10 * time.Minute

// await waits until Begin is through.
func (a *Adoption) await(patience time.Duration) bool {
	select {
	case <-a.begun:
		return true
	default:
	}
	a.mu.Lock()
	gaveUp := a.gaveUp
	a.mu.Unlock()
	if gaveUp {
		return false
	}
	select {
	case <-a.begun:
		return true
	case <-time.After(patience):
		a.mu.Lock()
		a.gaveUp = true
		a.mu.Unlock()
		return false
	}
}

// Counts gives the metrics: how often each thing happened, and how many containers are kept.
func (a *Adoption) Counts() map[string]float64 {
	counts := map[string]float64{}
	for _, name := range Counters {
		counts[name] = 0
	}
	if !a.Active() {
		return counts
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, count := range a.counts {
		counts[name] = float64(count)
	}
	counts["kept"] = float64(len(a.state.Containers))
	return counts
}

// Counters are the names of all counts: what became of containers, and errors by their reason.
var Counters = []string{
	"adopted", "changed", "same", "vanished", "admitted",
	"error_state", "error_write", "error_runtime", "error_address",
}

func (a *Adoption) count(name string) { a.counts[name]++ }

// complain counts an error each time and logs it at most once a minute.
func (a *Adoption) complain(reason, format string, values ...interface{}) {
	a.count("error_" + reason)
	if said, ever := a.said[reason]; ever && time.Since(said) < time.Minute {
		return
	}
	a.said[reason] = time.Now()
	log.Printf("nokmem: "+format, values...)
}

func orUnknown(build string) string {
	if build == "" {
		return "an unknown build"
	}
	return build
}
