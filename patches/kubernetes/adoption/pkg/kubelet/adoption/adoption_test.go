package adoption

import (
	"bytes"
	"fmt"
	"io/ioutil"
	"log"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	old   = "v1.15.3+nokmem.1"
	newer = "v1.17.17+nokmem.1"
	third = "v1.20.15+nokmem.1"
)

func TestFreshNodeIsUpstream(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1", "")
	a := w.start(newer)
	if !w.changed(a, id, "app:1", "") {
		t.Error("without a state file a container is exempt")
	}
	if a.Active() || a.Admits("a", "a", "", "") || a.Ran(id) || a.StaticUID("/m", "default", "a", "u") != "u" {
		t.Error("without a state file something is adopted")
	}
	if _, err := os.Stat(w.path); !os.IsNotExist(err) {
		t.Error("a state file was made")
	}
	if w.asked != 0 {
		t.Error("the runtime was asked")
	}
}

func TestTakeover(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run("v1.15.3", "a", "c", "app:1", "")
	w.seed("v1.15.3")
	a := w.start(newer)
	for i := 0; i < 3; i++ {
		if w.changed(a, id, "app:1", "") {
			t.Fatal("a container that ran before is restarted")
		}
	}
	w.image("app:2")
	if !w.changed(a, id, "app:2", "") {
		t.Error("a change is hidden")
	}
	if !w.changed(a, id, "app:1", "") {
		t.Error("a container that was let go is exempt again")
	}
}

func TestNeverExemptIfBornLater(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.seed(old)
	a := w.start(newer)
	for restart := 0; restart < 3; restart++ {
		id := w.run(newer, "a", "c", "app:1", "x")
		if w.changed(a, id, "app:1", "x") || !w.changed(a, id, "app:1", "y") {
			t.Fatal("a container of this build is not judged by its hash")
		}
		a.flush()
		a = w.start(newer)
		if !w.changed(a, id, "app:1", "y") {
			t.Fatal("a restart of the kubelet made a container exempt")
		}
	}
}

func TestEqualAtFirstSightIsNotExemptLater(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(newer, "a", "c", "app:1", "x")
	w.seed("v1.17.16+nokmem.1")
	a := w.start(newer)
	if w.changed(a, id, "app:1", "x") || !w.changed(a, id, "app:1", "y") {
		t.Error("a container whose hash was right is exempt from a later change")
	}
	if len(a.state.Containers) != 0 {
		t.Error("it needs no exemption, and keeps the state from its retirement")
	}
}

func TestChangeWhileDown(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	edited := w.run(old, "a", "c", "app:1", "")
	alias := w.run(old, "b", "c", "app:1", "")
	gone := w.run(old, "c", "c", "app:1", "")
	w.image("app:2")
	w.images["registry/app:one"] = w.images["app:1"]
	w.seed(old)
	a := w.start(newer)
	if !w.changed(a, edited, "app:2", "") || !w.changed(a, edited, "app:1", "") {
		t.Error("an image that changed while the kubelet was down is hidden, or was let go of only once")
	}
	if w.changed(a, alias, "registry/app:one", "") { // of a pod that was never seen in order
		t.Error("another name of the very image restarts a container")
	}
	if !w.changed(a, gone, "app:nowhere", "") {
		t.Error("an image that is not here runs already, it is said")
	}
}

func TestAMovedTagIsNoChangeWhereThePodWasSeen(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:latest", "")
	w.seed("v1.15.3")
	a := w.start(old)
	w.changed(a, id, "app:latest", "")
	a.flush()
	w.images["app:latest"] = "sha256:moved"
	a = w.start(newer)
	if w.changed(a, id, "app:latest", "") {
		t.Error("restarted because somebody pulled another image under the same tag")
	}
	delete(w.containers, id)
	a.Sweep(true)
	a.Sweep(true)
	if len(a.state.Images) != 0 {
		t.Error("what vanished is remembered for ever")
	}
}

func TestRecordedHashTellsWhatChangedWhileDown(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1", "x")
	w.seed(old)
	a := w.start(newer)
	w.changed(a, id, "app:1", "x")
	a.flush()
	a = w.start(newer)
	if w.changed(a, id, "app:1", "x") {
		t.Error("restarted by a restart of the kubelet")
	}
	if !w.changed(a, id, "app:1", "y") {
		t.Error("a change of more than the image while the kubelet was down is hidden")
	}
}

func TestHops(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	first := w.run("v1.10.13", "a", "c", "app:1", "x")
	w.seed("v1.10.13")
	ids := []string{first}
	for _, build := range []string{old, newer, third, newer, old, third} {
		a := w.start(build)
		for _, id := range ids {
			if w.changed(a, id, "app:1", "x") {
				t.Fatalf("%s restarts %s", build, id)
			}
		}
		ids = append(ids, w.run(build, "b", "c", "app:1", "x"))
		a.flush()
	}
	a := w.start(newer)
	if !w.changed(a, first, "app:1", "y") {
		t.Error("a build that has recorded a hash before does not remember it")
	}
}

func TestRuntimeSilent(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1", "")
	w.seed(old)
	w.silent = true
	if w.process(newer).Begin(w) == nil {
		t.Error("a generation was taken from no listing")
	}
	w.silent = false
	a := w.start(newer)
	w.silent = true
	w.images["app:1"] = "sha256:moved" // a tag that was moved, of a pod that was never seen in order
	if w.changed(a, id, "app:1", "") {
		t.Error("restarted because the runtime did not answer")
	}
	w.silent = false
	if !w.changed(a, id, "app:1", "") {
		t.Error("a tag that was moved counts as the same image")
	}
}

func TestRetirement(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1", "")
	w.seed(old)
	a := w.start(newer)
	w.changed(a, id, "app:1", "")
	a.Sweep(true)
	a.Sweep(true)
	delete(w.containers, id)
	a.Sweep(true)
	if a.state.Containers[id] == nil {
		t.Error("one listing was enough to let go")
	}
	a.Sweep(false)
	a.Sweep(true)
	if a.state.Containers[id] != nil || a.state.Retired {
		t.Error("not let go, or retired before the sources were ready twice")
	}
	a.Sweep(true)
	eventually(t, "the tombstone is written", func() bool { return w.stored().Retired })
	if w.stored().Build != newer {
		t.Error("the tombstone forgot the build")
	}
	next := w.run(newer, "b", "c", "app:1", "")
	a = w.start(third)
	if w.changed(a, next, "app:1", "") {
		t.Error("the next build does not take over from a tombstone")
	}
}

func TestOneWriteForMany(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	var ids []string
	for i := 0; i < 500; i++ {
		ids = append(ids, w.run(old, fmt.Sprint("p", i), "c", "app:1", ""))
	}
	w.seed(old)
	w.settle = 200 * time.Millisecond
	a := w.start(newer)
	before, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		w.changed(a, id, "app:1", "")
	}
	if now, _ := os.Stat(w.path); !os.SameFile(before, now) {
		t.Error("a sync wrote the state by itself")
	}
	eventually(t, "all are recorded in one write", func() bool {
		now, _ := os.Stat(w.path)
		if os.SameFile(before, now) {
			return false
		}
		for _, one := range w.stored().Containers {
			if !one.decided(newer) {
				t.Fatal("it took more than one write")
			}
		}
		return true
	})
	info, _ := os.Stat(w.path)
	if info.Mode().Perm() != 0600 {
		t.Errorf("the state has mode %o", info.Mode().Perm())
	}
}

func TestDamage(t *testing.T) {
	for name, harm := range map[string]func(*world){
		"missing, required": func(w *world) { os.Remove(w.path); os.Setenv("NOKMEM_ADOPTION", "required") },
		"truncated":         func(w *world) { w.write(`{"schema": 1, "build": "v1.1`) },
		"empty":             func(w *world) { w.write("") },
		"no build":          func(w *world) { w.write(`{"schema": 1}`) },
		"schema 0":          func(w *world) { w.write(`{"build": "x"}`) },
		"future schema":     func(w *world) { w.write(`{"schema": 2, "all": "else"}`) },
		"null container":    func(w *world) { w.write(`{"schema":1,"build":"x","containers":{"docker://1":null}}`) },
		"bad manifest":      func(w *world) { w.write(`{"schema":1,"build":"x","manifests":{"/m":{}}}`) },
		"wrong types":       func(w *world) { w.write(`{"schema":1,"build":"x","containers":[1]}`) },
		"too large":         func(w *world) { os.Truncate(w.path, maxSize+1) },
		"world-writable":    func(w *world) { os.Chmod(w.path, 0606) },
		"symbolic link":     func(w *world) { os.Rename(w.path, w.path+"-real"); os.Symlink(w.path+"-real", w.path) },
		"folder":            func(w *world) { os.Remove(w.path); os.Mkdir(w.path, 0700) },
		"foreign owner":     func(w *world) { os.Chown(w.path, 12345, 12345) },
	} {
		w := newWorld(t)
		id := w.run(old, "a", "c", "app:1", "")
		w.seed(old)
		harm(w)
		if name == "foreign owner" && os.Geteuid() != 0 {
			w.end() // only root can give a file away
			continue
		}
		text := &bytes.Buffer{}
		log.SetOutput(text)
		a := w.start(newer)
		log.SetOutput(os.Stderr)
		if w.changed(a, id, "app:1", "") {
			t.Errorf("%s: a restart storm", name)
		}
		w.image("app:2")
		if !w.changed(a, id, "app:2", "") {
			t.Errorf("%s: a changed image is hidden", name)
		}
		if a.Counts()["error_state"] != 1 || !strings.Contains(text.String(), "NOKMEM_ADOPTION=off") {
			t.Errorf("%s: silence: %s", name, text)
		}
		if name == "future schema" {
			if now, _ := ioutil.ReadFile(w.path); !strings.Contains(string(now), `"all"`) {
				t.Error("a newer kubelet's state was overwritten")
			}
		} else if found, wrong := read(w.path); wrong != nil || found == nil || found.Build != newer {
			t.Errorf("%s: no good state stands there afterwards: %v", name, wrong)
		}
		w.end()
	}
}

func TestOff(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1", "")
	w.seed(old)
	os.Setenv("NOKMEM_ADOPTION", "off")
	if a := w.start(newer); !w.changed(a, id, "app:1", "") {
		t.Error("the switch does not switch off")
	}
}

func TestDiskFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full")
	}
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1", "")
	w.seed(old)
	a := w.start(newer)
	a.mu.Lock()
	a.path = "/dev/full/state"
	a.mu.Unlock()
	if w.changed(a, id, "app:1", "") {
		t.Error("restarted because nothing could be written")
	}
	eventually(t, "the failure is counted", func() bool { return a.Counts()["error_write"] > 0 })
	if w.changed(a, id, "app:1", "") {
		t.Error("forgotten")
	}
	a.mu.Lock()
	a.path = w.path
	a.mu.Unlock()
	eventually(t, "it is written once there is room", func() bool {
		kept := w.stored().Containers[id]
		return kept != nil && kept.decided(newer)
	})
}

func TestWriteIsWholeOrNot(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.seed(old)
	w.write(`{"schema": 1, "build": "` + old + `"}`)
	ioutil.WriteFile(w.path+".part.123", []byte("cut off"), 0600)
	a := w.start(newer)
	a.flush()
	if left := leftovers(w.path); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestStaticPods(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.run(old, "etcd-node.old", "c", "etcd:1", "")
	w.seed(old)
	manifest := func(a *Adoption, text, natural string) string {
		a.ReadManifest("/m/etcd.yaml", []byte(text))
		return a.StaticUID("/m/etcd.yaml", "default", "etcd-node", natural)
	}
	const digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	w.write(`{"schema":1,"build":"` + old + `","manifests":{"/m/etcd.yaml":{"sha256":"` + digest + `"}}}`)
	a := w.start(newer)
	if uid := manifest(a, "x", "natural-17"); uid != "etcd-node.old" {
		t.Fatalf("a seeded manifest has the UID %s", uid)
	}
	a = w.start(third)
	if uid := manifest(a, "x", "natural-20"); uid != "etcd-node.old" {
		t.Fatalf("after another hop the UID is %s", uid)
	}
	if uid := manifest(a, "x # a comment", "natural-20"); uid != "etcd-node.old" {
		t.Fatalf("a comment makes the UID %s", uid)
	}
	if uid := manifest(a, "y", "natural-20-y"); uid != "natural-20-y" {
		t.Fatalf("an edited manifest keeps the UID %s", uid)
	}
	if uid := manifest(a, "x", "natural-20"); uid != "natural-20" {
		t.Fatalf("the old UID came back: %s", uid)
	}
	a = w.start(newer)
	if uid := manifest(a, "z", "natural-17-z"); uid != "natural-17-z" {
		t.Fatalf("a manifest that was edited while the kubelet was down keeps the UID %s", uid)
	}
}

func TestStaticPodThatWasMadeAnewMeanwhile(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.run(old, "etcd-node.natural-17", "c", "etcd:1", "")
	w.seed(old)
	a := w.start(newer)
	a.ReadManifest("/m/etcd.yaml", []byte("x"))
	a.state.Manifests["/m/etcd.yaml"] = manifest{SHA256: a.digests["/m/etcd.yaml"], UID: "of-old"}
	if uid := a.StaticUID("/m/etcd.yaml", "default", "etcd-node", "etcd-node.natural-17"); uid != "etcd-node.natural-17" {
		t.Errorf("a pod that was made anew while nothing was adopted is killed for %s", uid)
	}
}

func TestAnEditedImageIsAChangeThoughItsTagStandsForWhatRuns(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "a", "c", "app:1.4", "")
	w.images["app:stable"] = w.images["app:1.4"]
	w.seed("v1.15.3")
	a := w.start(old)
	w.changed(a, id, "app:1.4", "")
	a.flush()
	a = w.start(newer)
	if !w.changed(a, id, "app:stable", "") {
		t.Error("upstream restarts it, and pulls")
	}
}

func TestStaticPodOfExplicitUID(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	id := w.run(old, "explicit", "c", "app:1", "x")
	w.seed(old)
	a := w.start(old)
	a.ReadManifest("/m/a.yaml", []byte("x"))
	a.StaticUID("/m/a.yaml", "default", "explicit", "explicit")
	a = w.start(newer)
	a.ReadManifest("/m/a.yaml", []byte("y"))
	a.StaticUID("/m/a.yaml", "default", "explicit", "explicit")
	if !w.changed(a, id, "app:1", "y") {
		t.Error("a command that changed during a takeover is hidden by an explicit UID")
	}
}

func TestAStaticPodThatEndedKeepsItsUID(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	const digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	w.ended = []Pod{{UID: "before", Namespace: "default", Name: "done"}, {UID: "edited", Namespace: "default", Name: "runs"}}
	w.run(old, "runs.now", "c", "app:1", "")
	w.write(`{"schema":1,"build":"` + old + `","manifests":{"/m/done":{"sha256":"` + digest + `"},"/m/runs":{"sha256":"` + digest + `"}}}`)
	a := w.start(newer)
	for name, expected := range map[string]string{"done": "before", "runs": "runs.now"} {
		a.ReadManifest("/m/"+name, []byte("x"))
		if uid := a.StaticUID("/m/"+name, "default", name, "natural"); uid != expected {
			t.Errorf("%s: %s, and runs once more", name, uid)
		}
	}
}

func TestManifestsWaitForTheRuntime(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.seed(old)
	a := w.process(newer)
	a.ReadManifest("/m/a.yaml", []byte("x"))
	done := make(chan string)
	go func() { done <- a.StaticUID("/m/a.yaml", "default", "a", "natural") }()
	select {
	case <-done:
		t.Fatal("a UID was given before the runtime was asked")
	case <-time.After(20 * time.Millisecond):
	}
	if err := a.Begin(w); err != nil {
		t.Fatal(err)
	}
	if uid := <-done; uid != "natural" {
		t.Error(uid)
	}
}

func TestAdmission(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.run(old, "runs", "c", "app:1", "")
	w.seed(old)
	a := w.start(newer)
	if !a.Admits("runs", "a_default", "MatchNodeSelector", "lost") || a.Admits("new", "b_default", "OutOfcpu", "") {
		t.Error("what runs is admitted, what does not is judged")
	}
	if !a.Asks("runs") || a.Asks("new") || a.Asks("runs") {
		t.Error("what runs asks once")
	}
	if !a.KeepsSandbox("s-runs", "") || a.KeepsSandbox("s-new", "") {
		t.Error("a sandbox that was ready is kept, another is not")
	}
	if a.KeepsSandbox("s-runs", "10.0.0.1") || a.KeepsSandbox("s-runs", "") {
		t.Error("a sandbox that has had an address again is kept when it loses it")
	}
}

func TestAwaitsTheNode(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.seed(old)
	a := w.start(newer)
	asked := 0
	a.Await(func() bool { asked++; return asked == 5 }, time.Second)
	if asked != 5 {
		t.Errorf("asked %d times", asked)
	}
	a.Await(func() bool { return false }, 5*time.Millisecond) // ends
}

func TestComplainsOnceAMinute(t *testing.T) {
	w := newWorld(t)
	defer w.end()
	w.seed(old)
	a := w.start(newer)
	text := &bytes.Buffer{}
	log.SetOutput(text)
	defer log.SetOutput(os.Stderr)
	for i := 0; i < 100; i++ {
		a.KeepsSandbox("none", "")
		a.mu.Lock()
		a.complain("runtime", "silent")
		a.mu.Unlock()
	}
	if n := strings.Count(text.String(), "silent"); n != 1 || a.Counts()["error_runtime"] != 100 {
		t.Errorf("said %d times, counted %v", n, a.Counts())
	}
}

func TestImageNames(t *testing.T) {
	for spec, name := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "quay.io/a/b": "quay.io/a/b:latest",
		"localhost:5000/a": "localhost:5000/a:latest", "docker.io/a/b:1": "a/b:1",
	} {
		if plain(spec) != plain(name) {
			t.Errorf("%s is not %s", spec, name)
		}
	}
	if plain("nginx:1") == plain("nginx") || plain("a/nginx") == plain("nginx") {
		t.Error("different images have one name")
	}
}

func BenchmarkExpected(b *testing.B) {
	os.Setenv("NOKMEM_ADOPTION_FILE", "/nonexistent")
	w := &world{images: map[string]string{}, containers: map[string]*born{}}
	a := &Adoption{}
	a.Active()
	a.active, a.build = true, newer
	a.state.fill()
	var all []Container
	for i := 0; i < 500; i++ {
		id := w.run(old, fmt.Sprint(i), "c", "app:1", "")
		a.state.Containers[id] = &entry{}
		all = append(all, Container{ID: id, Expected: 1, Actual: 2, Spec: "app:1", Image: "app:1"})
	}
	a.runtime = w
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		a.Expected(all[i%len(all)])
	}
}
