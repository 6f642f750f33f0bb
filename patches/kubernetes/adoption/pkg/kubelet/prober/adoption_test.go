package prober

import (
	"fmt"
	"testing"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	adoptiontesting "k8s.io/kubernetes/pkg/kubelet/adoption/testing"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/prober/results"
)

func TestAdoptionResumesReadiness(t *testing.T) {
	const many = 30 // more than the channel of the results holds
	pods := []*v1.Pod{}
	runs := adoption.Pod{UID: "1", Sandboxes: []string{"s"}}
	for i := 0; i < many; i++ {
		id := fmt.Sprint("docker://", i)
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{
			{Name: "c", ReadinessProbe: &v1.Probe{}, LivenessProbe: &v1.Probe{}}}}}
		pod.UID = types.UID(fmt.Sprint(i))
		pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", ContainerID: id, Ready: i%2 == 0}}
		pods, runs.Containers = append(pods, pod), append(runs.Containers, id)
	}
	later := pods[0].DeepCopy()
	later.Status.ContainerStatuses[0].ContainerID = "docker://later"
	defer adoptiontesting.Takeover(t, "", runs)()
	m := &manager{readinessManager: results.NewManager(), livenessManager: results.NewManager()}
	for i, pod := range append(pods, later) {
		newWorker(m, liveness, pod, pod.Spec.Containers[0])
		w := newWorker(m, readiness, pod, pod.Spec.Containers[0])
		id := kubecontainer.ParseContainerID(pod.Status.ContainerStatuses[0].ContainerID)
		result, known := m.readinessManager.Get(id)
		if i < many && i%2 == 0 {
			if !known || result != results.Success || w.containerID != id {
				t.Errorf("%v was ready, now it is %v", id, result)
			}
		} else if known || !w.containerID.IsEmpty() {
			t.Errorf("%v was not ready or did not run, its probe begins with %v", id, result)
		}
		if _, known := m.livenessManager.Get(id); known {
			t.Errorf("liveness of %v is answered before it is asked", id)
		}
	}
}

// late has no result when it is asked first.
type late struct {
	results.Manager
	asked bool
}

func (l *late) Get(kubecontainer.ContainerID) (results.Result, bool) {
	before := l.asked
	l.asked = true
	return results.Success, before
}

func TestAdoptionLooksAgainAtWhatWasResumedMeanwhile(t *testing.T) {
	defer adoptiontesting.Takeover(t, "", adoption.Pod{UID: "1", Sandboxes: []string{"s"}, Containers: []string{"docker://ran"}})()
	for id, expected := range map[string]bool{"docker://ran": true, "docker://later": false} {
		m := newTestManager()
		m.readinessManager = &late{}
		m.workers[probeKey{"1", "c", readiness}] = &worker{}
		status := v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "c", ContainerID: id}}}
		status.ContainerStatuses[0].State.Running = &v1.ContainerStateRunning{}
		m.UpdatePodStatus("1", &status)
		if status.ContainerStatuses[0].Ready != expected {
			t.Errorf("%s: ready is %v while its worker is made", id, !expected)
		}
	}
}
