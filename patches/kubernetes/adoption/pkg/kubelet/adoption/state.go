package adoption

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/ioutil"
	"log"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// DefaultPath is where the state lies; NOKMEM_ADOPTION_FILE in the environment moves it.
	DefaultPath = "/var/lib/kubelet/version-cache.json"
	schema      = 1
	// maxSize in bytes; 10,000 containers are 2 MB.
	maxSize = 16 << 20
)

// state is the file: JSON, 0600. Build is the one that ran last. Containers are those that are
// kept, Images what the pods of all running containers asked for when that was last seen, Manifests what static pods were made of, by path. Recovered is a state that was made from
// what ran alone, until all sources were read once.
type state struct {
	Schema     int                 `json:"schema"`
	Build      string              `json:"build"`
	Retired    bool                `json:"retired"`
	Recovered  bool                `json:"recovered,omitempty"`
	Containers map[string]*entry   `json:"containers"`
	Images     map[string]string   `json:"images,omitempty"`
	Manifests  map[string]manifest `json:"manifests"`
}

// entry is one container that is kept. Expected has the hash that each build expected of it at
// first sight, none before that.
type entry struct {
	Expected map[string]uint64 `json:"expected,omitempty"`
}

// manifest is what a static pod was last made of; no UID where a seed leaves it to the runtime.
// Natural is the UID that upstream's rule gives in that build.
type manifest struct {
	SHA256  string `json:"sha256"`
	UID     string `json:"uid,omitempty"`
	Build   string `json:"build,omitempty"`
	Natural string `json:"natural,omitempty"`
}

// decided tells whether a build has seen the container.
func (e *entry) decided(build string) bool {
	_, known := e.Expected[build]
	return known
}

// damage is a state that cannot be believed. Movable is one that may be set aside for a new one.
type damage struct {
	why     string
	movable bool
}

// open reads the mark and the state. NOKMEM_ADOPTION in the environment is the mark:
//
//	(unset)   with a state file keep to it; without, be exactly as upstream
//	required  a missing file is damage, not a fresh node
//	off       be exactly as upstream
//
// Whatever is wrong with the file, what runs is kept, and that is said.
func (a *Adoption) open() {
	a.begun, a.dirty = make(chan struct{}), make(chan struct{}, 1)
	a.counts, a.said = map[string]uint64{}, map[string]time.Time{}
	a.digests, a.asked = map[string]string{}, map[string]bool{}
	if a.settle == 0 {
		a.pause, a.settle, a.retry = time.Second, 2*time.Second, time.Minute
	}
	a.build, a.path = Build, os.Getenv("NOKMEM_ADOPTION_FILE")
	if a.path == "" {
		a.path = DefaultPath
	}
	mark := os.Getenv("NOKMEM_ADOPTION")
	if mark == "off" {
		log.Printf("nokmem: NOKMEM_ADOPTION=off, containers of other builds are not kept")
		return
	}
	found, wrong := read(a.path)
	if found == nil && wrong == nil && mark == "" {
		return
	}
	if a.build == "" {
		log.Printf("nokmem: this kubelet was built without its id; containers of other builds are not kept")
		return
	}
	if mark != "" && mark != "required" {
		log.Printf("nokmem: NOKMEM_ADOPTION=%q is neither required nor off, it is taken as required", mark)
	}
	if found == nil && wrong == nil {
		wrong = &damage{"it is missing, and NOKMEM_ADOPTION says that it is required", true}
	}
	a.active = true
	for _, left := range leftovers(a.path) {
		os.Remove(left)
	}
	if wrong == nil {
		a.state = *found
		return
	}
	a.state = state{Schema: schema, Recovered: true}
	a.state.fill()
	a.memory = !wrong.movable
	a.complain("state", "%s: %s; all that runs now is kept, changed images apart. "+
		"NOKMEM_ADOPTION=off in the kubelet's environment ends that", a.path, wrong.why)
	if wrong.movable {
		if err := os.Rename(a.path, a.path+".damaged"); err != nil && !os.IsNotExist(err) {
			a.memory = true
		}
	}
}

// leftovers are what a write that was cut off has left.
func leftovers(path string) []string {
	left, _ := filepath.Glob(path + ".part.*")
	return left
}

// remind says again what is wrong for as long as it is.
func (a *Adoption) remind() {
	if a.memory {
		a.complain("state", "%s cannot be used, what is kept is not recorded; mend or remove it, "+
			"or set NOKMEM_ADOPTION=off in the kubelet's environment", a.path)
	}
}

// read gives the state, nothing where there is no file, or what is wrong with it.
func read(path string) (*state, *damage) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case os.IsNotExist(err):
		return nil, nil
	case cause(err) == syscall.ELOOP:
		return nil, &damage{"it is a symbolic link", true}
	case err != nil:
		return nil, &damage{err.Error(), false}
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, &damage{err.Error(), false}
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, &damage{"it is not a regular file", true}
	case !known || int(owner.Uid) != os.Geteuid():
		return nil, &damage{"it belongs to somebody else", true}
	case info.Mode().Perm()&022 != 0:
		return nil, &damage{"others may write to it", true}
	case info.Size() > maxSize:
		return nil, &damage{fmt.Sprintf("it has %d bytes", info.Size()), true}
	}
	text, err := ioutil.ReadAll(file)
	if err != nil {
		return nil, &damage{err.Error(), false}
	}
	var asked struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(text, &asked); err != nil {
		return nil, &damage{"it is not whole: " + err.Error(), true}
	}
	if asked.Schema > schema {
		return nil, &damage{fmt.Sprintf("its schema is %d, this kubelet knows %d", asked.Schema, schema), false}
	}
	found := &state{}
	if err := json.Unmarshal(text, found); err != nil {
		return nil, &damage{"it is not whole: " + err.Error(), true}
	}
	if err := found.check(); err != nil {
		return nil, &damage{err.Error(), true}
	}
	return found, nil
}

func cause(err error) error {
	if wrapped, is := err.(*os.PathError); is {
		return wrapped.Err
	}
	return err
}

// fill makes what a seed may leave out.
func (s *state) fill() {
	if s.Containers == nil {
		s.Containers = map[string]*entry{}
	}
	if s.Images == nil {
		s.Images = map[string]string{}
	}
	if s.Manifests == nil {
		s.Manifests = map[string]manifest{}
	}
}

// check also fills it.
func (s *state) check() error {
	if s.Schema != schema {
		return fmt.Errorf("its schema is %d", s.Schema)
	}
	if s.Build == "" {
		return errors.New("it names no build")
	}
	s.fill()
	for id, one := range s.Containers {
		if id == "" || one == nil {
			return fmt.Errorf("its container %q says nothing", id)
		}
	}
	for path, one := range s.Manifests {
		if len(one.SHA256) != 64 || !filepath.IsAbs(path) {
			return fmt.Errorf("its manifest %q has no digest", path)
		}
	}
	return nil
}

// touch has the state written soon, off the path of whoever changed it.
func (a *Adoption) touch() {
	select {
	case a.dirty <- struct{}{}:
	default:
	}
}

func (a *Adoption) saveLater() {
	for range a.dirty {
		time.Sleep(a.settle)
		a.save()
	}
}

// saveNow writes before anything depends on it: at a takeover, before the first pod is synced,
// and when a manifest changed. The lock is held, and let go of meanwhile.
func (a *Adoption) saveNow() {
	a.mu.Unlock()
	a.save()
	a.mu.Lock()
}

func (a *Adoption) save() {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.Lock()
	path, memory := a.path, a.memory
	text, err := json.MarshalIndent(&a.state, "", " ")
	a.mu.Unlock()
	if memory {
		return
	}
	if err == nil {
		err = write(path, append(text, '\n'))
	}
	if err == nil {
		return
	}
	time.AfterFunc(a.retry, a.touch)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.complain("write", "what is kept could not be recorded and is only remembered: %v", err)
}

// write replaces a file: whole or not at all, also when the power goes.
func write(path string, text []byte) (err error) {
	file, err := ioutil.TempFile(filepath.Dir(path), filepath.Base(path)+".part.")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
