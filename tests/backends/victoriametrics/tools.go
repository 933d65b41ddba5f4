//go:build tools

// Package victoriametrics pins one program for the tests: go.mod says the version, go.sum the content.
// It holds no code of ours; `cargo xtask backends install` builds the imported package.
package victoriametrics

import _ "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics"
