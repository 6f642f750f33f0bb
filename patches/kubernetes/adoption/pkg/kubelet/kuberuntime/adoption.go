package kuberuntime

import (
	"k8s.io/api/core/v1"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// adopter shows the runtime manager as adoption wants to see a runtime.
type adopter struct{ m *kubeGenericRuntimeManager }

func (a adopter) Running() ([]adoption.Pod, error) {
	listed, err := a.m.GetPods(true)
	if err != nil {
		return nil, err
	}
	pods := make([]adoption.Pod, 0, len(listed))
	for _, one := range listed {
		pod := adoption.Pod{UID: string(one.ID), Namespace: one.Namespace, Name: one.Name}
		for _, sandbox := range one.Sandboxes {
			if sandbox.State == kubecontainer.ContainerStateRunning {
				pod.Sandboxes = append(pod.Sandboxes, sandbox.ID.ID)
			}
		}
		for _, container := range one.Containers {
			if container.State == kubecontainer.ContainerStateRunning {
				pod.Containers = append(pod.Containers, container.ID.String())
			}
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

func (a adopter) Names(image string) ([]string, error) {
	ref, err := a.m.GetImageRef(kubecontainer.ImageSpec{Image: image})
	if err != nil || ref == "" {
		return nil, err
	}
	names := []string{ref}
	images, err := a.m.ListImages()
	for _, one := range images {
		all := append([]string{one.ID}, one.RepoDigests...)
		for _, name := range all {
			if name == ref {
				return append(names, all...), nil
			}
		}
	}
	return names, err
}

// beginAdoption lets adoption see the runtime, and the API's pods know when the node is known.
func (m *kubeGenericRuntimeManager) beginAdoption() error {
	if kubelet, is := m.runtimeHelper.(interface {
		GetNode() (*v1.Node, error)
	}); is {
		adoption.NodeKnown = func() bool {
			_, err := kubelet.GetNode()
			return err == nil
		}
	}
	return adoption.Node.Begin(adopter{m})
}

// adoptedHash is the hash to hold a container against that may be another build's.
func adoptedHash(expected, actual uint64, container *v1.Container, id kubecontainer.ContainerID, image, imageID string) uint64 {
	return adoption.Node.Expected(adoption.Container{
		ID: id.String(), Expected: expected, Actual: actual,
		Spec: container.Image, Image: image, ImageID: imageID,
	})
}

// initialized tells whether the init containers of a pod are done because a container of it that
// ran before this kubelet runs; their own remains may be gone (upstream's rule from 1.21 on).
func initialized(pod *v1.Pod, podStatus *kubecontainer.PodStatus) bool {
	return stillRuns(pod, podStatus)
}

func stillRuns(pod *v1.Pod, podStatus *kubecontainer.PodStatus) bool {
	for i := range pod.Spec.Containers {
		status := podStatus.FindContainerStatusByName(pod.Spec.Containers[i].Name)
		if status != nil && status.State == kubecontainer.ContainerStateRunning && adoption.Node.Ran(status.ID.String()) {
			return true
		}
	}
	return false
}

// keepsSandbox tells whether a sandbox without an address is kept: it was ready before this
// kubelet and a container of that time runs in it, so it is the network plugin that does not
// answer (yet). Without such a container nothing is lost by making it anew.
func keepsSandbox(pod *v1.Pod, podStatus *kubecontainer.PodStatus, id, address string) bool {
	return !kubecontainer.IsHostNetworkPod(pod) && stillRuns(pod, podStatus) && adoption.Node.KeepsSandbox(id, address)
}

func sweepAdoption(allSourcesReady bool) {
	adoption.Node.Sweep(allSourcesReady)
}
