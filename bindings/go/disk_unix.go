//go:build unix

package mwa

import "syscall"

// atOnce opens what is not a regular file without waiting for it.
const atOnce = syscall.O_NONBLOCK
