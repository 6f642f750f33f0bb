package kuberuntime

import (
	"fmt"
	"testing"

	"k8s.io/api/core/v1"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
	adoptiontesting "k8s.io/kubernetes/pkg/kubelet/adoption/testing"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// otherBuild makes a pod whose containers have the hashes of another build.
func otherBuild(t *testing.T) (*kubeGenericRuntimeManager, *v1.Pod, *kubecontainer.PodStatus, adoption.Pod) {
	_, _, m, err := createTestRuntimeManager()
	if err != nil {
		t.Fatal(err)
	}
	pod, status := makeBasePodAndStatus()
	runs := adoption.Pod{UID: string(pod.UID), Sandboxes: []string{status.SandboxStatuses[0].Id}}
	for _, container := range status.ContainerStatuses {
		container.Hash++
		container.Image = "busybox:latest"
		runs.Containers = append(runs.Containers, container.ID.String())
	}
	return m, pod, status, runs
}

func TestAdoptionKeepsContainersOfAnotherBuild(t *testing.T) {
	m, pod, status, runs := otherBuild(t)
	if n := len(m.computePodActions(pod, status).ContainersToKill); n != 3 {
		t.Fatalf("the control: upstream restarts %d of 3", n)
	}
	defer adoptiontesting.Takeover(t, "", runs)()
	actions := m.computePodActions(pod, status)
	if actions.KillPod || len(actions.ContainersToKill)+len(actions.ContainersToStart) != 0 {
		t.Errorf("something restarts: %+v", actions)
	}
	pod.Spec.Containers[1].Image = "busybox:2"
	actions = m.computePodActions(pod, status)
	if _, found := actions.ContainersToKill[status.ContainerStatuses[1].ID]; !found || len(actions.ContainersToKill) != 1 {
		t.Errorf("not the one that changed: %+v", actions)
	}
}

func TestAdoptionDoesNotRunInitContainersAgain(t *testing.T) {
	m, pod, status, runs := otherBuild(t)
	pod.Spec.InitContainers = []v1.Container{{Name: "init", Image: "busybox"}}
	defer adoptiontesting.Takeover(t, "", runs)()
	if actions := m.computePodActions(pod, status); actions.NextInitContainerToStart != nil {
		t.Error("an init container whose remains are gone runs again beside what it initialized")
	}
}

func TestAdoptionKeepsASandboxWithoutAddress(t *testing.T) {
	m, pod, status, runs := otherBuild(t)
	status.SandboxStatuses[0].Network.Ip = ""
	if !m.computePodActions(pod, status).KillPod {
		t.Fatal("the control: upstream keeps it")
	}
	defer adoptiontesting.Takeover(t, "", runs)()
	if m.computePodActions(pod, status).KillPod {
		t.Error("a pod dies because the network plugin does not answer")
	}
	status.ContainerStatuses[0].State = kubecontainer.ContainerStateExited
	if m.computePodActions(pod, status).KillPod {
		t.Error("two of its containers still run")
	}
	for _, container := range status.ContainerStatuses {
		container.State = kubecontainer.ContainerStateExited
	}
	if !m.computePodActions(pod, status).KillPod {
		t.Error("a sandbox without address is kept though nothing runs in it")
	}
}

func TestAdoptionSeesTheRuntime(t *testing.T) {
	fake, images, m, err := createTestRuntimeManager()
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "busybox"}}}}
	pod.UID, pod.Name, pod.Namespace = "1", "p", "n"
	_, containers := makeAndSetFakePod(t, m, fake, pod)
	pods, err := adopter{m}.Running()
	if err != nil || len(pods) != 1 || len(pods[0].Sandboxes) != 1 || len(pods[0].Containers) != 1 {
		t.Fatalf("%v %+v", err, pods)
	}
	if got := pods[0]; got.UID != "1" || got.Name != "p" || got.Namespace != "n" ||
		kubecontainer.ParseContainerID(got.Containers[0]).ID != containers[0].Id {
		t.Errorf("%+v", got)
	}
	for _, sandbox := range fake.Sandboxes {
		sandbox.State = 1 // not ready; the constant's package has another name in each age
	}
	for _, container := range fake.Containers {
		container.State = 2 // exited
	}
	pods, err = adopter{m}.Running()
	if err != nil || len(pods) != 1 || len(pods[0].Sandboxes)+len(pods[0].Containers) != 0 {
		t.Errorf("of a pod that ended: %v %+v", err, pods)
	}
	images.SetFakeImages([]string{"busybox"})
	if names, err := (adopter{m}).Names("busybox"); err != nil || len(names) == 0 {
		t.Errorf("%v %v", names, err)
	}
	if names, err := (adopter{m}).Names("nowhere"); err != nil || len(names) != 0 {
		t.Errorf("%v %v", names, err)
	}
}

// BenchmarkAdoption holds what adoption adds to each look at a container against upstream's own
// hash of it, with 250 pods of two containers that all ran before.
func BenchmarkAdoption(b *testing.B) {
	var pods []*v1.Pod
	var all []adoption.Pod
	for i := 0; i < 250; i++ {
		pod, _ := makeBasePodAndStatus()
		pod.Spec.Containers = pod.Spec.Containers[:2]
		runs := adoption.Pod{UID: fmt.Sprint(i), Sandboxes: []string{fmt.Sprint("s", i)}}
		for j := range pod.Spec.Containers {
			runs.Containers = append(runs.Containers, fmt.Sprintf("docker://%d-%d", i, j))
		}
		pods, all = append(pods, pod), append(all, runs)
	}
	defer adoptiontesting.Takeover(b, "", all...)()
	b.Run("upstream", func(b *testing.B) {
		for i := 0; i < b.N; i++ {
			kubecontainer.HashContainer(&pods[i/2%250].Spec.Containers[i%2])
		}
	})
	b.Run("adoption", func(b *testing.B) {
		for i := 0; i < b.N; i++ {
			container := &pods[i/2%250].Spec.Containers[i%2]
			id := kubecontainer.ParseContainerID(all[i/2%250].Containers[i%2])
			if adoptedHash(1, 2, container, id, container.Image, "") != 2 {
				b.Fatal("it is not kept")
			}
		}
	})
}
