package filehash

import (
	"io/fs"
	"syscall"
)

// system adds what Linux records about a file besides size and mtime.
func (s *stamp) system(info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Ctime, s.Inode = st.Ctim.Nano(), st.Ino
	}
}
