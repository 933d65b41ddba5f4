//go:build tools

// Package victorialogs pins one program for the tests: go.mod says the version, go.sum the content.
// It holds no code of ours; `cargo xtask backends install` builds the imported package.
package victorialogs

import _ "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"
