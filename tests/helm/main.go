// Helm's own packages around one chart: `helm CHART` reads requests from standard input, a JSON object each, and
// answers each with one on a line of standard output. One process renders many sets of values; nothing is installed.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// What `helm template` or `helm lint` would be told.
type request struct {
	// Lint the chart instead of rendering it.
	Lint bool `json:"lint"`
	// What `--values` would hold.
	Values map[string]any `json:"values"`
	// What `--namespace` would say.
	Namespace string `json:"namespace"`
	// Groups with versions, and with kinds, that the cluster has beside Kubernetes' own.
	APIVersions []string `json:"apiVersions"`
}

// What came of it.
type answer struct {
	// The rendered templates by file, NOTES.txt too.
	Files map[string]string `json:"files,omitempty"`
	// What lint said, from warnings on.
	Complaints []string `json:"complaints,omitempty"`
	// Why there is no file.
	Error string `json:"error,omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: helm CHART < requests")
	}
	path := os.Args[1]
	loaded, err := loader.Load(path)
	if err != nil {
		log.Fatal(err)
	}
	requests := json.NewDecoder(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		var asked request
		switch err := requests.Decode(&asked); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			log.Fatal(err)
		}
		var given answer
		if asked.Lint {
			given.Complaints = complaints(path, asked)
		} else if given.Files, err = render(loaded, asked); err != nil {
			given = answer{Error: err.Error()}
		}
		if err := answers.Encode(given); err != nil {
			log.Fatal(err)
		}
	}
}

func render(loaded *chart.Chart, asked request) (map[string]string, error) {
	release := chartutil.ReleaseOptions{
		Name:      "cri-resmgr",
		Namespace: asked.Namespace,
		Revision:  1,
		IsInstall: true,
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.APIVersions = append(capabilities.APIVersions, asked.APIVersions...)
	values, err := chartutil.ToRenderValues(loaded, asked.Values, release, capabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(loaded, values)
}

func complaints(path string, asked request) []string {
	var said []string
	for _, message := range lint.All(path, asked.Values, asked.Namespace, true).Messages {
		if message.Severity >= support.WarningSev {
			said = append(said, strings.TrimSpace(message.Error()))
		}
	}
	return said
}
