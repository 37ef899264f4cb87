module github.com/mwa-merge/mwa/bindings/go

go 1.25.0

require (
	github.com/tetratelabs/wazero v1.12.0
	lukechampine.com/blake3 v1.4.1
)

require (
	github.com/klauspost/cpuid/v2 v2.0.9 // indirect
	golang.org/x/sys v0.44.0 // indirect
)
