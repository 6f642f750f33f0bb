package kuberuntime

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"k8s.io/kubernetes/pkg/kubelet/adoption"
)

var (
	adoptionBuild = prometheus.NewDesc("nokmem_adoption_build_info",
		"The id of this kubelet's build.", []string{"build"}, nil)
	adoptionKept = prometheus.NewDesc("nokmem_adoption_containers",
		"Containers that run on from another build of the kubelet.", nil, nil)
	adoptionEvents = prometheus.NewDesc("nokmem_adoption_events_total",
		"What became of containers and pods of another build.", []string{"event"}, nil)
	adoptionErrors = prometheus.NewDesc("nokmem_adoption_errors_total",
		"What stood in the way of keeping containers.", []string{"reason"}, nil)
)

// adoptionMetrics shows adoption's counts; nothing where nothing is adopted.
type adoptionMetrics struct{}

func (adoptionMetrics) Describe(descriptions chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{adoptionBuild, adoptionKept, adoptionEvents, adoptionErrors} {
		descriptions <- one
	}
}

func (adoptionMetrics) Collect(metrics chan<- prometheus.Metric) {
	if !adoption.Node.Active() {
		return
	}
	counts := adoption.Node.Counts()
	metrics <- prometheus.MustNewConstMetric(adoptionBuild, prometheus.GaugeValue, 1, adoption.Build)
	metrics <- prometheus.MustNewConstMetric(adoptionKept, prometheus.GaugeValue, counts["kept"])
	for _, name := range adoption.Counters {
		description, label := adoptionEvents, name
		if strings.HasPrefix(name, "error_") {
			description, label = adoptionErrors, strings.TrimPrefix(name, "error_")
		}
		metrics <- prometheus.MustNewConstMetric(description, prometheus.CounterValue, counts[name], label)
	}
}
