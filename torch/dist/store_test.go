package dist

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
)

// listening lists the addresses, in hexadecimal digits, where something of this host listens on port.
func listening(t *testing.T, port int) []string {
	var list []string
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/net/" + name)
		if os.IsNotExist(err) && name == "tcp6" {
			continue
		}
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if at, ok := strings.CutSuffix(f[1], fmt.Sprintf(":%04X", port)); ok && f[3] == "0A" {
				list = append(list, at)
			}
		}
	}
	return list
}

// Ranks of one host meet where no other host reaches them: c10d's store gives and takes whatever it is
// asked to.
func TestTheStoreOfOneHostIsOutOfReach(t *testing.T) {
	torchtest.Require(t)
	own, err := os.Hostname()
	require.NoError(t, err)
	loopbacks := []string{"0100007F", "00000000000000000000000001000000"}
	for host, open := range map[string]bool{"127.0.0.1": false, "localhost": false, own: true} {
		if _, err := net.DefaultResolver.LookupHost(t.Context(), host); err != nil && host == own {
			continue // a host that does not know its own name
		}
		g, err := Connect(t.Context(), Config{Size: 1, Host: host, Serve: true, Timeout: 20 * time.Second})
		require.NoError(t, err, host)
		at := listening(t, g.config.Port)
		require.NoError(t, g.Close())
		require.NotEmpty(t, at, host)
		require.Equal(t, open, slices.ContainsFunc(at, func(a string) bool { return !slices.Contains(loopbacks, a) }), "%s: %v", host, at)
	}
}
