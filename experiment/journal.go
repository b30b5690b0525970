package experiment

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Events of a journal.
const (
	eventStart    = "start"
	eventResume   = "resume"   // of a training that was begun earlier
	eventTakeover = "takeover" // of a dead worker's run
	eventDone     = "done"
	eventFailed   = "failed"
	eventStopped  = "stopped" // by Ctrl-C or SIGTERM, saved
	eventLost     = "lost"    // another worker had taken the run over; nothing was written
)

// event is a line of a journal.
type event struct {
	Time   time.Time `json:"time"`
	Worker string    `json:"worker"`
	Run    string    `json:"run"`
	Event  string    `json:"event"`
	Error  string    `json:"error,omitempty"`
}

// journal is what one worker did: DIR/journal/HOST-PID.jsonl.
type journal struct {
	file   *os.File
	worker string
	torn   bool // the disk was full within the last line
}

// openJournal opens the journal of a worker, behind what an earlier process of that number wrote.
func openJournal(dir string, self *Holder) (*journal, error) {
	folder := filepath.Join(dir, "journal")
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, err
	}
	path := filepath.Join(folder, fmt.Sprintf("%s-%d.jsonl", fileName(self.Host), self.PID))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	return &journal{file: f, worker: self.Worker}, nil
}

// write adds a line, in one piece unless the disk is full; the next one stands by itself all the same.
func (j *journal) write(run, what string, why error) error {
	e := event{Time: time.Now(), Worker: j.worker, Run: run, Event: what}
	if why != nil {
		e.Error = why.Error()
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if j.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := j.file.Write(line)
	if n > 0 {
		j.torn = line[n-1] != '\n'
	}
	return err
}

func (j *journal) close() error { return j.file.Close() }
