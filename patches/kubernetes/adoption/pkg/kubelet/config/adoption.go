package config

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
)

// apiPatience bounds the wait of the API's pods; a node that is not registered yet has none.
const apiPatience = 30 * time.Second

// awaitNode lets the API's pods wait until the node's labels are known. Other sources never wait:
// the API server itself may be one of their pods.
func awaitNode() {
	adoption.Node.Await(func() bool { return adoption.NodeKnown != nil && adoption.NodeKnown() }, apiPatience)
}

// adoptedUID is the UID of a pod from a file that may have run under another build.
func adoptedUID(source string, isFile bool, namespace, name string, uid types.UID) types.UID {
	if !isFile {
		return uid
	}
	return types.UID(adoption.Node.StaticUID(source, namespace, name, string(uid)))
}

// readManifest remembers what adoptedUID is asked about next.
func readManifest(path string, data []byte) {
	adoption.Node.ReadManifest(path, data)
}
