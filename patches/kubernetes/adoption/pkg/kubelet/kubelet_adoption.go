package kubelet

import (
	"k8s.io/api/core/v1"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
)

// asAdmitted is a pod as admission sees it. One that ran before this kubelet is not critical there:
// to make room for a critical pod, admission kills others, and this one is let in anyway.
func asAdmitted(pod *v1.Pod) *v1.Pod {
	if !adoption.Node.Asks(string(pod.UID)) {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Spec.Priority = nil
	for _, name := range []string{"scheduler.alpha.kubernetes.io/critical-pod", "kubernetes.io/config.source"} {
		delete(pod.Annotations, name)
	}
	return pod
}

// keepAdmitted tells whether a pod that is rejected is let in because it ran before this kubelet.
func keepAdmitted(pod *v1.Pod, reason, message string) bool {
	return adoption.Node.Admits(string(pod.UID), format.Pod(pod), reason, message)
}
