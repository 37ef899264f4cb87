//go:build !unix

package mwa

// atOnce opens what is not a regular file without waiting for it; here, opening never waits.
const atOnce = 0
