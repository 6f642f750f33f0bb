// Package testing gives tests and benchmarks of the hooks a node on which another build ran before.
package testing

import (
	"io/ioutil"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
)

type runtime []adoption.Pod

func (r runtime) Running() ([]adoption.Pod, error)     { return r, nil }
func (r runtime) Names(image string) ([]string, error) { return nil, nil }

// Takeover makes adoption.Node that of a kubelet which has just taken over these pods; call what
// it returns at the end. `manifests` is the JSON of what a seed knows of static pods.
func Takeover(t testing.TB, manifests string, pods ...adoption.Pod) func() {
	folder, err := ioutil.TempDir("", "adoption")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "version-cache.json")
	state := `{"schema": 1, "build": "v1.0.0", "manifests": {` + manifests + `}}`
	if err := ioutil.WriteFile(path, []byte(state), 0600); err != nil {
		t.Fatal(err)
	}
	os.Setenv("NOKMEM_ADOPTION_FILE", path)
	adoption.Build, adoption.Node = "v1.1.0+nokmem.1", &adoption.Adoption{}
	if err := adoption.Node.Begin(runtime(pods)); err != nil {
		t.Fatal(err)
	}
	return func() {
		os.Unsetenv("NOKMEM_ADOPTION_FILE")
		adoption.Node = &adoption.Adoption{}
		os.RemoveAll(folder)
	}
}
