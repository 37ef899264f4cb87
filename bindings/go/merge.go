package mwa

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
)

// merge is one merge under way: its sessions share the jobs, each in a goroutine of its own.
type merge struct {
	ctx     context.Context
	source  *watched
	what    request
	options Options
	// begin gives the sink, once it is known what is merged
	begin func(*state) (Sink, error)
	sink  Sink
	// sessions are those that work; the first is there from the beginning
	sessions []*session

	// looking is held while files are looked at for all sessions
	looking sync.Mutex
	// answered is what all sessions are told, in this order
	answered [][]byte

	mutex sync.Mutex
	news  *sync.Cond
	// free and freeModule are the lowest job and module that nobody has taken
	free, freeModule uint64
	// found is what jobs have found that some session has not heard of yet
	found       map[uint64]*finding
	failure     *failure
	panicked    *Panic
	files       *inputs
	outputs     []*output
	done, total int64
}

// finding is what a job has found, and how many sessions are still to hear of it.
type finding struct {
	bytes []byte
	left  int
}

// failure is what went wrong in the earliest job in which something did, so that any number of sessions say the same.
type failure struct {
	job     *job
	err     error
	session *session
}

// lessForEach is how many bytes of inputs make another session worth its start.
const lessForEach = 4 << 20

// stopped is an error once the context is done.
func stopped(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return &Error{Kind: KindStopped, Detail: "stopped; nothing was written", cause: context.Cause(ctx)}
}

// mergeWith merges what a request is about, out of a source, into what begin gives.
func mergeWith(ctx context.Context, source *watched, what request, options Options, begin func(*state) (Sink, error)) (report *Report, err error) {
	defer func() { source.explain(err) }()
	if options.Threads < 0 {
		return nil, &Error{Kind: KindUsage, Detail: fmt.Sprintf("%d is not a number of threads", options.Threads),
			Help: "use a whole number, or 0 for one per core"}
	}
	m := &merge{ctx: ctx, source: source, what: what, options: options, begin: begin, found: map[uint64]*finding{}}
	m.news = sync.NewCond(&m.mutex)
	defer context.AfterFunc(ctx, func() {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		m.news.Broadcast()
	})()
	defer func() {
		for _, s := range m.sessions {
			s.close()
		}
	}()
	defer func() {
		// after a merge that is done there is nothing to take back
		_ = m.clear()
	}()
	if err := m.open(); err != nil {
		return nil, err
	}
	for {
		failed := m.round()
		if failed == nil {
			return m.finish(m.sessions[0])
		}
		again, err := m.again(failed)
		if err != nil {
			return nil, err
		}
		if !again {
			return nil, failed.err
		}
	}
}

// open opens the first session, and brings it to its first job; then as many more as that is worth.
func (m *merge) open() error {
	first, err := open(m.what)
	if err != nil {
		return err
	}
	m.sessions = append(m.sessions, first)
	next, err := m.next(first)
	if err != nil {
		return err
	}
	first.ahead = next
	known, err := first.state()
	if err != nil {
		return err
	}
	m.total = known.Bytes
	m.files = newInputs(m.source, known.Inputs)
	for range min(int64(m.threads()-1), m.total/lessForEach) {
		another, err := open(m.what)
		if err != nil {
			return err
		}
		m.sessions = append(m.sessions, another)
	}
	return nil
}

// threads is how many goroutines work.
func (m *merge) threads() int {
	if m.options.Threads == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return m.options.Threads
}

// next is the next job of a session, once all is answered that it asks; nothing after the last.
func (m *merge) next(s *session) (*job, error) {
	if next := s.ahead; next != nil {
		s.ahead = nil
		return next, nil
	}
	for {
		if err := stopped(m.ctx); err != nil {
			return nil, err
		}
		next, err := s.next()
		if err != nil {
			// it may only want to know first what other sessions have found
			heard, failed := m.hear(s)
			if failed != nil {
				return nil, failed
			}
			if !heard {
				return nil, err
			}
			continue
		}
		if next == nil {
			// it has no more jobs, but may not know yet what others found in the last
			if heard, err := m.hear(s); err != nil || !heard {
				return nil, err
			}
			continue
		}
		if next.Look == nil {
			return next.Work, nil
		}
		if err := m.answer(s, next.Look); err != nil {
			return nil, err
		}
	}
}

// answer tells a session what it asks, which is what all sessions ask.
func (m *merge) answer(s *session, questions []question) error {
	told, err := m.answerOf(s.looks, questions)
	if err != nil {
		return err
	}
	return s.tell(told)
}

// answerOf is what all sessions are told the nth time that they ask.
func (m *merge) answerOf(n int, questions []question) ([]byte, error) {
	m.looking.Lock()
	defer m.looking.Unlock()
	if n == len(m.answered) {
		told, err := answers(m.source, questions)
		if err != nil {
			return nil, err
		}
		m.answered = append(m.answered, told)
	}
	return m.answered[n], nil
}

// Panic is what a callback panicked with in a goroutine of a merge. The goroutine that called the merge panics with it, once all others have ended
// and nothing is left of the output.
type Panic struct {
	Value any    // what the callback panicked with
	Stack []byte // where that was
}

func (p *Panic) Error() string { return fmt.Sprintf("%v\n\n%s", p.Value, p.Stack) }

// Unwrap is what it panicked with, if that is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// round runs all jobs; what went wrong, if anything.
func (m *merge) round() *failure {
	var all sync.WaitGroup
	for _, s := range m.sessions {
		all.Go(func() {
			s.isEnded = false
			defer m.rescue(s)
			m.work(s)
			s.isEnded = true
		})
	}
	all.Wait()
	if m.panicked != nil {
		panic(m.panicked)
	}
	return m.failure
}

// rescue is deferred where a session works: a callback may panic, or end its goroutine, and the others would wait for it.
func (m *merge) rescue(s *session) {
	value := recover()
	if value == nil && s.isEnded {
		return
	}
	if value != nil {
		m.mutex.Lock()
		if m.panicked == nil {
			m.panicked = &Panic{value, debug.Stack()}
		}
		m.mutex.Unlock()
	}
	m.fail(nil, &Error{Kind: KindUsage, Detail: "a callback ended its goroutine", Help: "return from it instead"}, s)
}

// work runs jobs in a session until there are none, or something fails.
func (m *merge) work(s *session) {
	var module *uint64
	for {
		next, err := m.next(s)
		if err != nil {
			m.fail(nil, err, s)
			return
		}
		if next == nil || m.isVoid(next) {
			return
		}
		isMine := module != nil && next.Module != nil && *next.Module == *module
		if !isMine {
			if isMine = m.claim(next); isMine {
				module = next.Module
			}
		}
		if !isMine {
			s.owed = append(s.owed, next)
			if err := m.hearMore(s); err != nil {
				m.fail(nil, err, s)
				return
			}
			continue
		}
		if err := m.do(s, next); err != nil {
			m.fail(next, err, s)
			return
		}
	}
}

// isVoid is whether something failed before this job.
func (m *merge) isVoid(next *job) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.failure != nil && (m.failure.job == nil || m.failure.job.Number <= next.Number)
}

// claim takes a job, with all others of its module, unless it is taken. Nothing is taken any more after a failure.
func (m *merge) claim(next *job) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	number, free := next.Number, &m.free
	if next.Module != nil {
		number, free = *next.Module, &m.freeModule
	}
	if m.failure != nil || number < *free {
		return false
	}
	*free = number + 1
	return true
}

// do runs a job, writes what comes out, and tells the other sessions of it.
func (m *merge) do(s *session, work *job) error {
	if len(work.Writes) > 0 {
		if err := m.create(s); err != nil {
			return err
		}
	}
	merged, err := s.run(work, func(to []byte) error { return m.files.fill(work.Reads, to) })
	if err != nil {
		return err
	}
	for _, write := range work.Writes {
		length := write.End - write.Start
		if err := m.outputs[write.File].write(merged[:length], write.Start); err != nil {
			return err
		}
		merged = merged[length:]
	}
	found, err := s.found()
	if err != nil {
		return err
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if others := len(m.sessions) - 1; others > 0 {
		m.found[work.Number] = &finding{append([]byte(nil), found...), others}
		m.news.Broadcast()
	}
	// the last jobs read what is only hashed
	if len(work.Writes) > 0 || work.Module != nil {
		for _, read := range work.Reads {
			m.done += read.End - read.Start
		}
		if m.options.Progress != nil {
			m.options.Progress(Progress{m.done, max(m.done, m.total)})
		}
	}
	return nil
}

// create begins the outputs, once.
func (m *merge) create(s *session) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.outputs != nil {
		return nil
	}
	known, err := s.state()
	if err != nil {
		return err
	}
	m.total = known.Bytes
	if m.sink == nil {
		if m.sink, err = m.begin(known); err != nil {
			return err
		}
	}
	m.outputs = []*output{}
	for i, described := range known.Outputs {
		made, err := create(m.sink, described.Name, described.Length)
		if err != nil {
			return err
		}
		m.outputs = append(m.outputs, made)
		head, err := s.head(i)
		if err != nil {
			return err
		}
		if err := made.write(head, 0); err != nil {
			return err
		}
	}
	return nil
}

// hear takes what was found in the first job that another session runs in this one's stead, and waits for it; false if there
// is none to wait for.
func (m *merge) hear(s *session) (bool, error) {
	if len(s.owed) == 0 {
		return false, nil
	}
	m.mutex.Lock()
	for m.found[s.owed[0].Number] == nil {
		if m.failure != nil || m.ctx.Err() != nil {
			m.mutex.Unlock()
			return false, stopped(m.ctx)
		}
		m.news.Wait()
	}
	m.mutex.Unlock()
	return true, m.hearMore(s)
}

// hearMore takes what was found elsewhere by now.
func (m *merge) hearMore(s *session) error {
	for len(s.owed) > 0 {
		number := s.owed[0].Number
		m.mutex.Lock()
		found := m.found[number]
		if found == nil {
			m.mutex.Unlock()
			return nil
		}
		if found.left--; found.left == 0 {
			delete(m.found, number)
		}
		m.mutex.Unlock()
		if err := s.take(number, found.bytes); err != nil {
			return err
		}
		s.owed = s.owed[1:]
	}
	return nil
}

// fail notes what went wrong, unless something did in an earlier job.
func (m *merge) fail(at *job, err error, s *session) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	isEarlier := m.failure == nil || at != nil && (m.failure.job == nil || at.Number < m.failure.job.Number)
	if isEarlier {
		m.failure = &failure{at, err, s}
	}
	m.news.Broadcast()
}

// again begins again without a checkpoint whose values are bad, if that is wanted.
func (m *merge) again(failed *failure) (bool, error) {
	var own *Error
	if !errors.As(failed.err, &own) || own.Kind != KindNonFinite || !m.options.DropBad || failed.job == nil {
		return false, nil
	}
	if again, err := failed.session.again(); err != nil || !again {
		return false, err
	}
	if _, ok := m.sink.(Remover); len(m.outputs) > 0 && !ok {
		// what was written cannot be taken back
		what := "a sink that is no Remover"
		if m.isSingle() {
			what = "a writer"
		}
		own.Help = what + " cannot begin again: merge into Folder or Memory, or leave the checkpoint out"
		return false, nil
	}
	// only this session knows which checkpoint is bad, and the others are opened anew: it is rare, so the rest is done alone
	for _, s := range m.sessions {
		if s != failed.session {
			s.close()
		}
	}
	m.sessions = []*session{failed.session}
	if err := m.clear(); err != nil {
		return false, err
	}
	failed.session.owed = nil
	m.failure, m.free, m.freeModule, m.done = nil, 0, 0, 0
	clear(m.found)
	next, err := m.next(failed.session)
	if err != nil {
		return false, err
	}
	failed.session.ahead = next
	known, err := failed.session.state()
	if err != nil {
		return false, err
	}
	m.total = known.Bytes
	m.files = newInputs(m.source, known.Inputs)
	return true, nil
}

// clear closes what is open, and takes the outputs back as far as the sink can.
func (m *merge) clear() error {
	var errs []error
	if m.files != nil {
		m.files.close()
	}
	for _, made := range m.outputs {
		if made.file != nil {
			_ = made.file.Close() // it is void
		}
		if remover, ok := m.sink.(Remover); ok {
			errs = append(errs, remover.Remove(made.name))
		}
	}
	m.outputs = nil
	return errors.Join(errs...)
}
