// Package brief shortens lists in messages.
package brief

import (
	"fmt"
	"strings"
)

// Join joins the first most entries by sep and says how many more there are.
func Join(list []string, sep string, most int) string {
	if more := len(list) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], sep), more)
	}
	return strings.Join(list, sep)
}
