package launch

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

// environment makes an Env of a map.
func environment(m map[string]string) Env { return func(name string) string { return m[name] } }

// defaults is a Config as the command line gives it without flags.
func defaults() Config { return settings.New[Config]() }

func TestTorchrunsAgentServesTheStore(t *testing.T) {
	w, err := defaults().World(environment(map[string]string{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
		"MASTER_ADDR": "node0", "MASTER_PORT": "29400", "TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "2",
		"TORCHELASTIC_USE_AGENT_STORE": "True"}))
	require.NoError(t, err)
	require.Equal(t, &World{Rank: 3, Size: 4, LocalRank: 1, LocalSize: 2, Launcher: Torchrun, Restart: 2, RunID: "job",
		Master: "node0:29400", Prefix: "/worker/attempt_2"}, w)
}
