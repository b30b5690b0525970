package dist

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testHub(t *testing.T, size int) (h *hub, address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h = newHub(l, size, "token", "store:29500", time.Minute)
	t.Cleanup(h.close)
	return h, l.Addr().String()
}

// call sends raw bytes to the hub.
func call(t *testing.T, address string, raw []byte) net.Conn {
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = conn.Write(raw)
	require.NoError(t, err)
	return conn
}

// A member's end of a line, without a group.
type member struct {
	conn net.Conn
	t    *testing.T
}

func join(t *testing.T, address string, rank int, token string) *member {
	f, err := frame(&message{Kind: "hello", Token: token, Member: Member{rank, "host", 100 + rank}})
	require.NoError(t, err)
	return &member{call(t, address, f), t}
}

func (m *member) send(msg *message) {
	f, err := frame(msg)
	require.NoError(m.t, err)
	_, err = m.conn.Write(f)
	require.NoError(m.t, err)
}

// next is the next message; nil if the hub has hung up.
func (m *member) next() *message {
	m.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	msg, err := readMessage(m.conn, maxFrame)
	if err != nil {
		return nil
	}
	return msg
}

// Whoever does not know the token is not heard, and costs no memory.
func TestStrangersAreNotHeard(t *testing.T) {
	_, address := testHub(t, 2)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, raw := range map[string][]byte{
		"a browser":     []byte("GET / HTTP/1.1\r\n\r\n"),
		"4 GiB":         binary.BigEndian.AppendUint32(nil, 1<<32-1),
		"no JSON":       append(binary.BigEndian.AppendUint32(nil, 4), "null"...),
		"wrong token":   mustFrame(t, &message{Kind: "hello", Token: "tokem"}),
		"no hello":      mustFrame(t, &message{Kind: "fail", Token: "token", Text: "x"}),
		"rank 2":        mustFrame(t, &message{Kind: "hello", Token: "token", Member: Member{Rank: 2}}),
		"rank -1":       mustFrame(t, &message{Kind: "hello", Token: "token", Member: Member{Rank: -1}}),
		"a long letter": mustFrame(t, &message{Kind: "hello", Token: "token", Text: fmt.Sprintf("%05000d", 0)}),
	} {
		m := &member{call(t, address, raw), t}
		require.Nil(t, m.next(), name)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))

	a, b := join(t, address, 0, "token"), join(t, address, 1, "token")
	for _, m := range []*member{a, b} {
		require.Equal(t, []Member{{0, "host", 100}, {1, "host", 101}}, m.next().Members)
	}
	again := join(t, address, 1, "token")
	require.Equal(t, "rank 1 (host host, pid 101): is this rank already", again.next().Trouble.err().Error())

	a.send(&message{Kind: "part", ID: 1, Call: "c", Data: []byte("a")})
	b.send(&message{Kind: "part", ID: 1, Call: "c"})
	for _, m := range []*member{a, b} {
		require.Equal(t, [][]byte{[]byte("a"), nil}, m.next().All)
	}
}

func mustFrame(t *testing.T, m *message) []byte {
	f, err := frame(m)
	require.NoError(t, err)
	return f
}

// Two connections at once, one of which breaks: the other hears of it, and of nothing after.
func TestFirstTroubleIsTheOneTold(t *testing.T) {
	_, address := testHub(t, 3)
	var ms []*member
	for r := range 3 {
		ms = append(ms, join(t, address, r, "token"))
	}
	for _, m := range ms {
		require.Equal(t, "members", m.next().Kind)
	}
	ms[1].send(&message{Kind: "fail", Text: "no space"})
	for _, m := range ms {
		require.Equal(t, &Failed{Member{1, "host", 101}, "no space"}, m.next().Trouble.err())
	}
	ms[2].conn.Close()
	ms[0].send(&message{Kind: "suspect", Text: "timed out"})
	ms[0].conn.SetReadDeadline(time.Now().Add(patience + time.Second))
	_, err := readMessage(ms[0].conn, maxFrame)
	require.ErrorContains(t, err, "timeout")
}

// Whoever does not answer is to blame for what the others suspect, whatever it has done before.
func TestSilentRankIsNamed(t *testing.T) {
	_, address := testHub(t, 2)
	a, silent := join(t, address, 0, "token"), join(t, address, 1, "token")
	for _, m := range []*member{a, silent} {
		require.Equal(t, "members", m.next().Kind)
	}
	a.send(&message{Kind: "suspect", Text: "connection reset"})
	for _, m := range []*member{a, silent} {
		require.Equal(t, "ping", m.next().Kind)
	}
	a.send(&message{Kind: "pong", ID: 7})
	require.Equal(t, &TimedOut{[]Member{{1, "host", 101}}, time.Minute}, a.next().Trouble.err())
}

// A rank that does not read cannot keep the hub from the others.
func TestHubDoesNotWaitForOne(t *testing.T) {
	_, address := testHub(t, 2)
	a, deaf := join(t, address, 0, "token"), join(t, address, 1, "token")
	require.Equal(t, "members", a.next().Kind)
	data := make([]byte, 8<<20) // more than a socket holds
	for id := range int64(2) {
		deaf.send(&message{Kind: "part", ID: id + 1, Call: "c"})
		a.send(&message{Kind: "part", ID: id + 1, Call: "c", Data: data})
		require.Len(t, a.next().All[0], len(data))
	}
}

func TestEveryTroubleSurvivesTheLine(t *testing.T) {
	m := Member{3, "b", 4711}
	for _, c := range []struct {
		t    trouble
		want string
	}{
		{trouble{Kind: "gone", Members: []Member{m}}, "rank 3 (host b, pid 4711) is gone"},
		{trouble{Kind: "timeout", Members: []Member{m, {Rank: 1}}, Limit: time.Minute},
			"rank 3 (host b, pid 4711), rank 1 do not answer (time limit 1m0s)"},
		{trouble{Kind: "left", Members: []Member{m}}, "rank 3 (host b, pid 4711) has ended"},
		{trouble{Kind: "failed", Members: []Member{m}, Text: "x"}, "rank 3 (host b, pid 4711): x"},
		{trouble{Kind: "disagree", Said: []string{"a", "b"}}, "ranks disagree: rank 0 has a, rank 1 has b"},
		{trouble{Kind: "absent", Members: []Member{m}, Missing: []int{0, 1}, Text: "h:1", Limit: time.Second},
			"ranks that did not come to h:1 within 1s: 0, 1 (came: rank 3 (host b, pid 4711))"},
	} {
		require.EqualError(t, c.t.err(), c.want)
	}
}

func TestNameThatDoesNotExistIsAnErrorAtOnce(t *testing.T) {
	start := time.Now()
	_, err := dial(context.Background(), "no-such-host.invalid:1")
	require.Error(t, err)
	require.Less(t, time.Since(start), 10*time.Second)
}
