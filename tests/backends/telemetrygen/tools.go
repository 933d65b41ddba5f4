//go:build tools

// Package telemetrygen pins one program for the tests: go.mod says the version, go.sum the content.
// It holds no code of ours; `cargo xtask backends install` builds the imported package.
package telemetrygen

import _ "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"
