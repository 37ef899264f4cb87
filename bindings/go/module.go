package mwa

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	cores "runtime"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

//go:embed core
var embedded embed.FS

// embeddedName is the core module in the embedded folder.
const embeddedName = "core/mwa.module.wasm"

// compiled is the core module as machine code, shared by all merges of the process.
var compiled struct {
	sync.Mutex
	cache   string
	runtime wazero.Runtime
	module  wazero.CompiledModule
}

// CompileInto keeps the compiled core in a folder, so that the next process need not compile it (a second or two). It has to be
// called before anything else, and the folder must be one that only this user can write to, for code is run from there.
func CompileInto(folder string) {
	compiled.Lock()
	defer compiled.Unlock()
	compiled.cache = folder
}

// compile compiles the core once.
func compile() (wazero.Runtime, wazero.CompiledModule, error) {
	compiled.Lock()
	defer compiled.Unlock()
	if compiled.module != nil {
		return compiled.runtime, compiled.module, nil
	}
	code, err := embeddedCore()
	if err != nil {
		return nil, nil, err
	}
	plain := wazero.NewRuntimeConfig()
	if compiled.cache != "" {
		cache, err := wazero.NewCompilationCacheWithDir(compiled.cache)
		if err != nil {
			return nil, nil, refused("cannot keep the compiled core there", compiled.cache, err)
		}
		compiled.runtime, compiled.module, err = compileWith(plain.WithCompilationCache(cache), code)
		if err == nil {
			return compiled.runtime, compiled.module, nil
		}
		// what was kept is spoiled, as by a full disk: nobody has to wait for it
	}
	compiled.runtime, compiled.module, err = compileWith(plain, code)
	if err != nil {
		return nil, nil, failed("the core cannot be compiled here", err)
	}
	return compiled.runtime, compiled.module, nil
}

// compileWith compiles the core in a runtime of its own.
func compileWith(config wazero.RuntimeConfig, code []byte) (wazero.Runtime, wazero.CompiledModule, error) {
	background := context.Background()
	runtime := wazero.NewRuntimeWithConfig(background, config)
	module, err := runtime.CompileModule(experimental.WithCompilationWorkers(background, cores.GOMAXPROCS(0)), code)
	if err != nil {
		_ = runtime.Close(background)
		return nil, nil, err
	}
	return runtime, module, nil
}

// embeddedCore is the core module.
func embeddedCore() ([]byte, error) {
	code, err := embedded.ReadFile(embeddedName)
	if err != nil {
		return nil, &Error{
			Kind: KindDevice, Detail: "this program was built without the core module, " + embeddedName,
			Help: "run `cargo xtask build go` in the repository of mwa, then build the program again", cause: err,
		}
	}
	return code, nil
}

// failed is what goes wrong with the core itself.
func failed(what string, cause error) *Error {
	return &Error{Kind: KindDevice, Detail: what + ": " + cause.Error(), cause: cause}
}

// instance is the core in a memory of its own. It has one thread: whoever calls it has it for themselves.
type instance struct {
	module api.Module
	// what the calls get and give, reused
	stack [3]uint64
}

// newInstance makes an instance; it is to be closed.
func newInstance() (*instance, error) {
	runtime, module, err := compile()
	if err != nil {
		return nil, err
	}
	made, err := runtime.InstantiateModule(context.Background(), module, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return nil, failed("the core does not start", err)
	}
	return &instance{module: made}, nil
}

// close gives the memory back.
func (i *instance) close() {
	// it runs no code of ours, and an instance that failed is closed already
	_ = i.module.Close(context.Background())
}

// call calls a function of the ABI; what it returns is 0 for functions that return nothing.
func (i *instance) call(name string, arguments ...uint64) (uint64, error) {
	function := i.module.ExportedFunction(name)
	if function == nil {
		return 0, &Error{Kind: KindBug, Detail: "the embedded core is of another version than this package",
			Help: "build it with `cargo xtask build go` from the same sources", cause: errors.New("it has no " + name)}
	}
	i.stack[0] = 0
	copy(i.stack[:], arguments)
	if err := function.CallWithStack(context.Background(), i.stack[:]); err != nil {
		var own *Error
		if errors.As(err, &own) {
			return 0, own
		}
		return 0, &Error{Kind: KindDevice, Detail: "the core stopped itself: " + firstLine(err.Error()),
			Help: "it has at most 4 GiB of memory; if it cannot be out of that, this is a mistake in mwa", cause: err}
	}
	return i.stack[0], nil
}

// pass gives the core so many bytes, which fill writes right into its memory; the address is for one call.
func (i *instance) pass(length int, fill func([]byte) error) (uint64, error) {
	address, err := i.call("mwa_allocate", uint64(length))
	if err != nil {
		return 0, err
	}
	if address == 0 {
		return 0, &Error{Kind: KindDevice, Detail: fmt.Sprintf("the core has no room for %d bytes", length)}
	}
	// asked for anew, as the memory may have grown
	view, ok := i.module.Memory().Read(uint32(address), uint32(length))
	if !ok {
		return 0, &Error{Kind: KindBug, Detail: "the core allocated what is not in its memory"}
	}
	if err := fill(view); err != nil {
		_, _ = i.call("mwa_free", address)
		return 0, err
	}
	return address, nil
}

func (i *instance) passBytes(pieces ...[]byte) (uint64, error) {
	length := 0
	for _, piece := range pieces {
		length += len(piece)
	}
	return i.pass(length, func(view []byte) error {
		for _, piece := range pieces {
			view = view[copy(view, piece):]
		}
		return nil
	})
}

// answer is what the last call said: a view that stands until the next call.
func (i *instance) answer() ([]byte, error) {
	address, err := i.call("mwa_answer")
	if err != nil {
		return nil, err
	}
	length, err := i.call("mwa_answer_length")
	if err != nil {
		return nil, err
	}
	view, ok := i.module.Memory().Read(uint32(address), uint32(length))
	if !ok {
		return nil, &Error{Kind: KindBug, Detail: "the core's answer is not in its memory"}
	}
	return view, nil
}

// said is the answer of the last call, read from JSON.
func (i *instance) said(into any) error {
	answer, err := i.answer()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return &Error{Kind: KindBug, Detail: "the core's answer cannot be read: " + err.Error(), cause: err}
	}
	return nil
}

// failure is what the last call, which gave 0, says is wrong.
func (i *instance) failure() error {
	var told struct{ Error *Error }
	if err := i.said(&told); err != nil {
		return err
	}
	if told.Error == nil {
		return &Error{Kind: KindBug, Detail: "the core refuses without saying why"}
	}
	told.Error.Detail, told.Error.Help = spoken(told.Error.Detail), spoken(told.Error.Help)
	return told.Error
}

func firstLine(text string) string {
	line, _, _ := bytes.Cut([]byte(text), []byte("\n"))
	return string(line)
}
