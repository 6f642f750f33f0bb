package config

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubernetes/pkg/apis/core"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	adoptiontesting "k8s.io/kubernetes/pkg/kubelet/adoption/testing"
)

func TestAdoptionKeepsTheUIDOfAStaticPod(t *testing.T) {
	uid := func(says, comment string) types.UID {
		pod := &api.Pod{}
		pod.Name, pod.Labels = "etcd", map[string]string{"says": says}
		readManifest("/m/etcd.yaml", []byte(says+comment))
		if err := applyDefaults(pod, "/m/etcd.yaml", true, "node"); err != nil {
			t.Fatal(err)
		}
		if pod.Annotations["kubernetes.io/config.hash"] != string(pod.UID) {
			t.Error("the mirror pod would be of another UID")
		}
		return pod.UID
	}
	naturalX, naturalY := uid("x", ""), uid("y", "")
	seed := fmt.Sprintf(`"/m/etcd.yaml": {"sha256": "%x"}`, sha256.Sum256([]byte("x")))
	defer adoptiontesting.Takeover(t, seed, adoption.Pod{
		UID: "of-another-build", Namespace: "default", Name: "etcd-node", Sandboxes: []string{"s"}})()
	for _, comment := range []string{"", " # a comment"} {
		if got := uid("x", comment); got != "of-another-build" {
			t.Errorf("with %q the UID is %s", comment, got)
		}
	}
	if got := uid("y", ""); got != naturalY {
		t.Errorf("after an edit the UID is %s, upstream's is %s", got, naturalY)
	}
	if got := uid("x", ""); got != naturalX {
		t.Errorf("the old UID came back: %s", got)
	}
}
