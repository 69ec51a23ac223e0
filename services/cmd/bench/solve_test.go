package main

import (
	"strings"
	"testing"
)

func TestAFreshProcessIsTimedAndWeighed(t *testing.T) {
	seconds, peak, err := freshProcess(t.Context(), "sh", "-c", "sleep 0.05")
	if err != nil || seconds < 0.05 || peak <= 0 {
		t.Errorf("%v s, %v MiB, %v", seconds, peak, err)
	}
	if _, _, err := freshProcess(t.Context(), "sh", "-c", "echo no such channel >&2; exit 2"); err == nil || !strings.Contains(err.Error(), "no such channel") {
		t.Errorf("got %v", err)
	}
}

func TestEveryFigureOfSolvesHasAUnit(t *testing.T) {
	goals := solveGoals()
	if len(goals) != 8+2*(2*9+2) {
		t.Errorf("%d goals", len(goals))
	}
	for name, g := range goals {
		if g.unit == "" {
			t.Errorf("%s has none", name)
		}
	}
	if g := goals["memory, cold start, 500k, shards over HTTP, cached"]; g.atMost != 250 {
		t.Errorf("%+v", g)
	}
}
