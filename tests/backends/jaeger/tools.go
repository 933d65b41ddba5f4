//go:build tools

// Package jaeger pins one program for the tests: go.mod says the version, go.sum the content.
// It holds no code of ours; `cargo xtask backends install` builds the imported package.
package jaeger

import _ "github.com/jaegertracing/jaeger/cmd/all-in-one"
