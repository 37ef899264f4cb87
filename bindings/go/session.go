package mwa

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
)

// request opens a session: the words of wasm/README.md.
type request struct {
	Verb    string   `json:"verb"`
	Paths   []string `json:"paths"`
	Options any      `json:"options,omitempty"`
	Report  any      `json:"report,omitempty"`
	Chunk   int      `json:"chunk,omitzero"`
	// whether hashes are made here
	HashedOutside bool `json:"hashed_outside,omitempty"`
}

// step is what the core wants done next: one of the two.
type step struct {
	Look []question `json:"look"`
	Work *job       `json:"work"`
}

// job reads ranges of inputs and writes ranges of outputs. All jobs of a module are for one session, in order.
type job struct {
	Number uint64  `json:"number"`
	Module *uint64 `json:"module"`
	Reads  []span  `json:"reads"`
	Writes []span  `json:"writes"`
}

// span is a range of a file, which has a number.
type span struct {
	File  int   `json:"file"`
	Start int64 `json:"start"`
	End   int64 `json:"end"`
}

// question is about a file: one of the four.
type question struct {
	Kind  *string       `json:"kind"`
	List  *string       `json:"list"`
	Place *string       `json:"place"`
	Read  *readQuestion `json:"read"`
}

type readQuestion struct {
	path       string
	start, end int64
}

func (q *readQuestion) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&q.path, &q.start, &q.end})
}

// state is what is known by now.
type state struct {
	Report     *Report     `json:"report"`
	Inspection *Inspection `json:"inspection"`
	Bytes      int64       `json:"bytes"`
	Inputs     []string    `json:"inputs"`
	Outputs    []struct {
		Name   string `json:"name"`
		Length int64  `json:"length"`
		Head   int64  `json:"head"`
	} `json:"outputs"`
	Companions []companion `json:"companions"`
	Texts      []textFile  `json:"texts"`
}

// companion is a file that is copied beside the weights.
type companion struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

// textFile is a text that is written beside the weights.
type textFile struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// session is one merge in one instance.
type session struct {
	*instance
	handle uint64
	// how many times it was told answers: all sessions of a merge ask the same in the same order
	looks int
	// the next job, if that is known already
	ahead *job
	// jobs that it was given and others run, of which it has not heard yet
	owed []*job
	// whether its work ended by itself
	isEnded bool
}

// open starts a session in an instance of its own; it is to be closed.
func open(what request) (*session, error) {
	text, err := json.Marshal(what)
	if err != nil {
		return nil, &Error{Kind: KindUsage, Detail: "the options cannot be written as JSON: " + err.Error(), cause: err}
	}
	made, err := newInstance()
	if err != nil {
		return nil, err
	}
	s := &session{instance: made}
	address, err := s.passBytes(text)
	if err == nil {
		s.handle, err = s.call("mwa_open", address)
	}
	if err == nil && s.handle == 0 {
		err = s.failure()
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// next is what to do next; nothing after the last.
func (s *session) next() (*step, error) {
	more, err := s.call("mwa_next", s.handle)
	if err != nil {
		return nil, err
	}
	if more == 0 {
		if answer, err := s.answer(); err != nil || len(answer) == 0 {
			return nil, err
		}
		return nil, s.failure()
	}
	next := new(step)
	return next, s.said(next)
}

// do calls a function that gives 1, or 0 and what is wrong.
func (s *session) do(name string, arguments ...uint64) error {
	done, err := s.call(name, append([]uint64{s.handle}, arguments...)...)
	if err == nil && done == 0 {
		err = s.failure()
	}
	return err
}

// tell answers questions.
func (s *session) tell(answers []byte) error {
	address, err := s.passBytes(answers)
	if err != nil {
		return err
	}
	s.looks++
	return s.do("mwa_tell", address)
}

// run runs a job whose reads fill writes; what is to be written stands until the next call.
func (s *session) run(work *job, fill func([]byte) error) ([]byte, error) {
	var length int64
	for _, read := range work.Reads {
		length += read.End - read.Start
	}
	address, err := s.pass(int(length), fill)
	if err != nil {
		return nil, err
	}
	if err := s.do("mwa_run", work.Number, address); err != nil {
		return nil, err
	}
	return s.answer()
}

// again tells, after a job that failed, whether the merge begins again without a bad checkpoint.
func (s *session) again() (bool, error) {
	again, err := s.call("mwa_again", s.handle)
	return again == 1, err
}

// found is what the last job has found that was run here: a view that stands until the next call.
func (s *session) found() ([]byte, error) {
	if err := s.do("mwa_found"); err != nil {
		return nil, err
	}
	return s.answer()
}

// take hears what a job has found that another session ran.
func (s *session) take(number uint64, found []byte) error {
	address, err := s.passBytes(found)
	if err != nil {
		return err
	}
	return s.do("mwa_take", number, address)
}

// state is what is known by now.
func (s *session) state() (*state, error) {
	if err := s.do("mwa_state"); err != nil {
		return nil, err
	}
	known := new(state)
	return known, s.said(known)
}

// head is the first bytes of an output.
func (s *session) head(output int) ([]byte, error) {
	if err := s.do("mwa_head", uint64(output)); err != nil {
		return nil, err
	}
	return s.answer()
}

// finish gives the texts that close the merge.
func (s *session) finish(closing any) ([]textFile, error) {
	text, err := json.Marshal(closing)
	if err != nil {
		return nil, &Error{Kind: KindBug, Detail: err.Error(), cause: err}
	}
	address, err := s.passBytes(text)
	if err != nil {
		return nil, err
	}
	if err := s.do("mwa_finish", address); err != nil {
		return nil, err
	}
	var texts []textFile
	return texts, s.said(&texts)
}

// answers answers questions out of a source, which remembers its refusals: JSON behind its length, then all bytes that were read.
func answers(source *watched, questions []question) ([]byte, error) {
	told, read := make([]any, 0, len(questions)), []byte(nil)
	for _, asked := range questions {
		var answer any
		var err error
		doing, path := "cannot open it", ""
		switch {
		case asked.Kind != nil:
			path = *asked.Kind
			answer, err = kindOf(source, path)
			if answer == missing {
				source.refuse(path, fs.ErrNotExist)
			}
		case asked.List != nil:
			doing, path = "cannot list it", *asked.List
			var names []string
			names, err = source.List(path)
			answer = map[string]any{"names": orNone(names)}
		case asked.Place != nil:
			path = *asked.Place
			var place string
			place, err = source.Place(path)
			answer = map[string]any{"place": place}
		case asked.Read != nil:
			path = asked.Read.path
			before := len(read)
			read, err = readInto(source, asked.Read, read)
			answer = map[string]any{"bytes": len(read) - before}
		default:
			return nil, &Error{Kind: KindBug, Detail: "the core asks what this package does not know"}
		}
		if err != nil {
			source.refuse(path, err)
			failure := refused(doing, "", err)
			help := any(failure.Help)
			if failure.Help == "" {
				help = nil
			}
			answer = map[string]any{"failed": []any{failure.Detail, help}}
		}
		told = append(told, answer)
	}
	text, err := json.Marshal(told)
	if err != nil {
		return nil, &Error{Kind: KindBug, Detail: err.Error(), cause: err}
	}
	whole := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(text)+len(read)), uint32(len(text)))
	return append(append(whole, text...), read...), nil
}

func orNone(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

// missing is the answer of what is not there.
const missing = "missing"

func kindOf(source Source, path string) (any, error) {
	found, err := source.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case found.Type == RegularFile:
		return map[string]any{"file": found.Size}, nil
	case found.Type == Directory:
		return "folder", nil
	case found.Type == Other:
		return "other", nil
	default:
		return missing, nil
	}
}

// readAtOnce is how many bytes a question is answered with at a time.
const readAtOnce = 1 << 20

// readInto appends a range of a file, as far as the file goes.
func readInto(source Source, asked *readQuestion, to []byte) ([]byte, error) {
	file, err := source.Open(asked.path)
	if err != nil {
		return to, err
	}
	defer file.Close()
	// in pieces, for a question may ask for more than there is
	for at := asked.start; at < asked.end; {
		start := len(to)
		to = append(to, make([]byte, min(asked.end-at, readAtOnce))...)
		n, err := readAtMost(file, to[start:], at)
		if err != nil {
			return to[:start], refused("cannot read it", asked.path, err)
		}
		if to = to[:start+n]; n == 0 {
			return to, nil
		}
		at += int64(n)
	}
	return to, nil
}
