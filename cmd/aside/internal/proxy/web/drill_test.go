package web

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADrillRunsForAsLongAsItsCallerStays(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{web: Options{Token: "secret"}})
	f.redis.Do("SET", "k", "v")
	drill := func(ctx context.Context, method, path, token string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, method, f.http.URL+path, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		return http.DefaultClient.Do(r)
	}
	ask := func(method, path, token string) (status int, body []byte) {
		t.Helper()
		answer, err := drill(t.Context(), method, path, token)
		require.NoError(t, err)
		defer func() { _ = answer.Body.Close() }() // was only read from
		body, err = io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, body
	}
	for _, row := range []struct {
		method, path, token string
		status              int
	}{
		{http.MethodPost, "/drill?fraction=1", "wrong", http.StatusUnauthorized},
		{http.MethodGet, "/drill?fraction=1", "secret", http.StatusMethodNotAllowed},
		{http.MethodPost, "/drill", "secret", http.StatusBadRequest},
		{http.MethodPost, "/drill?fraction=2", "secret", http.StatusBadRequest},
		{http.MethodPost, "/drill?fraction=NaN", "secret", http.StatusBadRequest},
	} {
		status, _ := ask(row.method, row.path, row.token)
		require.Equal(t, row.status, status, row)
	}
	require.Nil(t, f.client.Health().Drill)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer, err := drill(ctx, http.MethodPost, "/drill?fraction=1", "secret")
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }() // was only read from
	require.Equal(t, http.StatusOK, answer.StatusCode)
	lines := bufio.NewScanner(answer.Body)
	line := func() (st drillStatus) {
		t.Helper()
		require.True(t, lines.Scan(), lines.Err())
		require.NoError(t, json.Unmarshal(lines.Bytes(), &st))
		return st
	}
	st := line()
	require.True(t, st.Running)
	require.InDelta(t, 1, st.Fraction, 0)

	status, body := ask(http.MethodGet, "/get?key=k", "secret")
	require.Equal(t, http.StatusServiceUnavailable, status, "as in an outage")
	var p struct{ Type, Detail string }
	require.NoError(t, json.Unmarshal(body, &p))
	require.True(t, strings.HasSuffix(p.Type, "#problem-degraded"), p.Type)
	require.Contains(t, p.Detail, "a drill runs")
	st = line()
	require.Equal(t, []int64{1, 1}, []int64{st.Reads, st.Unanswered})

	status, _ = ask(http.MethodPost, "/drill?fraction=0.5", "secret")
	require.Equal(t, http.StatusConflict, status)

	cancel() // the caller leaves
	eventually(t, "the drill has ended", func() bool { return f.client.Health().Drill == nil })
	status, _ = ask(http.MethodGet, "/get?key=k", "secret")
	require.Equal(t, http.StatusOK, status)
}

func TestADrillEndsWithTheServer(t *testing.T) {
	t.Parallel()
	f := newFront(t, setup{})
	answer, err := http.Post(f.http.URL+"/drill?fraction=0.01", "", nil)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }() // was only read from
	lines := bufio.NewScanner(answer.Body)
	require.True(t, lines.Scan())
	f.server.Close()
	last := ""
	for lines.Scan() {
		last = lines.Text()
	}
	require.NoError(t, lines.Err())
	require.Contains(t, last, `"running":false`)
	require.Nil(t, f.client.Health().Drill)
}
