package torch

// Rows says which rows of a batch the tensors of a scope hold along axis 0: Count rows, of which
// the first is row First of All. Axis 0 may be a multiple of Count, with the entries of a row side
// by side, as windows of images are. The zero value stands for all rows.
type Rows struct{ First, Count, All int64 }

// SetRows makes the dropout of s, and of child scopes that are opened from now on, that of rows r
// of a batch: what Dropout would give for the whole batch after the same ManualSeed.
func (s *Scope) SetRows(r Rows) { s.rows = r }
