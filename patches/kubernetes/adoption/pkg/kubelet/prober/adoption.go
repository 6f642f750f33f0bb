package prober

import (
	"time"

	"k8s.io/api/core/v1"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/prober/results"
)

// resume begins a container that ran before this kubelet as ready, if that was last reported of
// it, until its first probe answers. Without that each restart of a kubelet makes it unready once.
func (w *worker) resume() {
	if w.probeType == liveness {
		return
	}
	for _, status := range w.pod.Status.ContainerStatuses {
		if status.Name != w.container.Name || !status.Ready || !adoption.Node.Ran(status.ContainerID) {
			continue
		}
		w.containerID = kubecontainer.ParseContainerID(status.ContainerID)
		// From 1.21 on the reader of this channel may be the caller; the result itself is there
		// before the channel is written.
		go w.resultsManager.Set(w.containerID, results.Success, w.pod)
		for known, tries := false, 0; !known && tries < 1000; tries++ {
			time.Sleep(10 * time.Microsecond)
			_, known = w.resultsManager.Get(w.containerID)
		}
	}
}

// resumed looks again at what was not ready: its worker may have been made, with its result, after
// there was no result yet.
func (m *manager) resumed(podStatus *v1.PodStatus) {
	for i := range podStatus.ContainerStatuses {
		status := &podStatus.ContainerStatuses[i]
		if status.Ready || status.State.Running == nil || !adoption.Node.Ran(status.ContainerID) {
			continue
		}
		result, known := m.readinessManager.Get(kubecontainer.ParseContainerID(status.ContainerID))
		status.Ready = known && result == results.Success
	}
}
