package mwa

import (
	"encoding/json"
	"io"
	"path"
	"strings"
)

// ending is what the core is told when all is written.
type ending struct {
	Paths   []string `json:"paths"`
	LeftOut []string `json:"left_out,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	Hashes  *hashes  `json:"hashes,omitempty"`
}

// finish writes what belongs beside the weights, once all jobs are run, and closes everything.
func (m *merge) finish(s *session) (*Report, error) {
	if err := m.create(s); err != nil {
		return nil, err
	}
	known, err := s.state()
	if err != nil {
		return nil, err
	}
	for _, made := range m.outputs {
		err := made.close()
		if made.file = nil; err != nil {
			return nil, err
		}
	}
	var told ending
	if err := m.beside(known, &told); err != nil {
		return nil, err
	}
	if folder, ok := m.sink.(*staging); ok && m.what.HashedOutside {
		if told.Hashes, err = m.hashes(known, folder.folder); err != nil {
			return nil, err
		}
	}
	for _, input := range known.Inputs {
		if err := m.source.check(input); err != nil {
			return nil, err
		}
	}
	if told.Paths, err = m.ways(known.Report); err != nil {
		return nil, err
	}
	texts, err := s.finish(told)
	if err != nil {
		return nil, err
	}
	report := new(Report)
	for _, text := range texts {
		switch text.Name {
		case reportName:
			if err := json.Unmarshal([]byte(text.Content), report); err != nil {
				return nil, &Error{Kind: KindBug, Detail: "the core's report cannot be read: " + err.Error(), cause: err}
			}
			fallthrough
		case cardName:
			if err := m.write(text.Name, int64(len(text.Content)), strings.NewReader(text.Content)); err != nil {
				return nil, err
			}
		}
	}
	if err := stopped(m.ctx); err != nil {
		return nil, err
	}
	m.outputs = nil // they are not to be taken back any more
	return report, nil
}

// beside writes the texts that come before the report, and copies the companions.
func (m *merge) beside(known *state, told *ending) error {
	for _, text := range known.Texts {
		if err := m.write(text.Name, int64(len(text.Content)), strings.NewReader(text.Content)); err != nil {
			return err
		}
	}
	for _, companion := range known.Companions {
		place, isOut, err := m.leadsOut(companion.Path)
		if err != nil {
			return err
		}
		if isOut {
			told.LeftOut = append(told.LeftOut, companion.Name)
			told.Notes = append(told.Notes, companion.Path+" is left out: it is a link out of the checkpoint, to "+place+
				"; put the file itself there to have it copied")
			continue
		}
		if err := m.copy(companion); err != nil {
			return err
		}
	}
	return nil
}

// leadsOut is where a link in a checkpoint leads, if that is out of the checkpoint.
func (m *merge) leadsOut(name string) (string, bool, error) {
	place, err := m.source.Place(name)
	if err != nil {
		return "", false, refused("cannot open it", name, err)
	}
	folder, err := m.source.Place(path.Dir(name))
	if err != nil {
		return "", false, refused("cannot open it", name, err)
	}
	isInside := folder == "." || strings.HasPrefix(place, strings.TrimSuffix(folder, "/")+"/")
	return place, !isInside, nil
}

// copy copies a file of the newest checkpoint.
func (m *merge) copy(from companion) error {
	found, err := m.source.Stat(from.Path)
	if err != nil {
		return refused("cannot read it", from.Path, err)
	}
	file, err := m.source.Open(from.Path)
	if err != nil {
		return refused("cannot open it", from.Path, err)
	}
	defer file.Close()
	return m.write(from.Name, found.Size, io.NewSectionReader(file, 0, found.Size))
}

// copiedAtOnce is how many bytes of a file beside the weights are in memory at a time.
const copiedAtOnce = 256 << 10

// write writes a file beside the weights.
func (m *merge) write(name string, size int64, from io.Reader) error {
	if m.isSingle() {
		return nil
	}
	made, err := create(m.sink, name, size)
	if err != nil {
		return err
	}
	m.outputs = append(m.outputs, made)
	buffer, at := make([]byte, min(size, copiedAtOnce)), int64(0)
	for at < size {
		part := buffer[:min(size-at, copiedAtOnce)]
		if _, err := io.ReadFull(from, part); err != nil {
			return refused("cannot read it", name, err)
		}
		if err := made.write(part, at); err != nil {
			return err
		}
		at += int64(len(part))
	}
	err = made.close()
	made.file = nil
	return err
}

func (m *merge) isSingle() bool {
	_, isSingle := m.sink.(*single)
	return isSingle
}

// ways lead from the output to each checkpoint of the report: to their names, where the output is no folder beside them.
func (m *merge) ways(report *Report) ([]string, error) {
	var ways []string
	for _, input := range report.Inputs {
		way := input.Name
		if folder, ok := m.sink.(*staging); ok && m.isOnDisk() {
			var err error
			if way, err = folder.way(input.Name); err != nil {
				return nil, err
			}
		}
		ways = append(ways, way)
	}
	return ways, nil
}

func (m *merge) isOnDisk() bool {
	_, isOnDisk := m.source.Source.(disk)
	return isOnDisk
}
