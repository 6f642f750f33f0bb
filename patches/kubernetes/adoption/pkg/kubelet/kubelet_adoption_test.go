package kubelet

import (
	"testing"

	"k8s.io/api/core/v1"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	adoptiontesting "k8s.io/kubernetes/pkg/kubelet/adoption/testing"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
)

type refuses struct{}

// preempted has the pods that upstream would have made room for, by killing others.
var preempted []string

func (refuses) Admit(attributes *lifecycle.PodAdmitAttributes) lifecycle.PodAdmitResult {
	if kubetypes.IsCriticalPod(attributes.Pod) {
		preempted = append(preempted, string(attributes.Pod.UID))
	}
	return lifecycle.PodAdmitResult{Reason: "MatchNodeSelector", Message: "a label is gone"}
}

func TestAdoptionAdmitsWhatRuns(t *testing.T) {
	runs, new := &v1.Pod{}, &v1.Pod{}
	runs.UID, new.UID = "runs", "new"
	kl := &Kubelet{}
	kl.admitHandlers.AddPodAdmitHandler(refuses{})
	if admitted, _, _ := kl.canAdmitPod(nil, runs); admitted {
		t.Fatal("the control: upstream admits it")
	}
	critical := int32(2000000000)
	runs.Spec.Priority = &critical
	runs.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	defer adoptiontesting.Takeover(t, "", adoption.Pod{UID: "runs", Containers: []string{"docker://1"}})()
	if admitted, _, _ := kl.canAdmitPod(nil, runs); !admitted {
		t.Error("a pod that runs is rejected")
	}
	if admitted, reason, _ := kl.canAdmitPod(nil, new); admitted || reason != "MatchNodeSelector" {
		t.Error("a new pod is admitted though it does not fit")
	}
	if len(preempted) != 0 || runs.Spec.Priority != &critical {
		t.Errorf("others are killed for a pod that runs already: %v", preempted)
	}
	if admitted, _, _ := kl.canAdmitPod(nil, runs); admitted {
		t.Error("a pod that went and came back is let in as if it ran")
	}
}
