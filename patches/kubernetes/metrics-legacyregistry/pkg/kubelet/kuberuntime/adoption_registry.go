package kuberuntime

import "k8s.io/component-base/metrics/legacyregistry"

func init() {
	legacyregistry.RawMustRegister(adoptionMetrics{})
}
