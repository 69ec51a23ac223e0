package main

import (
	"io"
	"net/http"
	"testing"
)

type httpClient struct {
	t *testing.T
	c http.Client
}

func newHTTP(t *testing.T) *httpClient {
	h := &httpClient{t: t, c: http.Client{Transport: &http.Transport{}}}
	t.Cleanup(h.c.CloseIdleConnections)
	return h
}

func (h *httpClient) get(url string) int {
	h.t.Helper()
	resp, err := h.c.Get(url)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode
}
