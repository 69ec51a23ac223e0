package quetz

import (
	"net/http"
	"strings"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// channelMirror is Quetz's ChannelMirror.
type channelMirror struct {
	URL             string `json:"url"`
	APIEndpoint     string `json:"api_endpoint"`
	MetricsEndpoint string `json:"metrics_endpoint"`
	ID              string `json:"id"`
}

// base is where this server is reached: as configured, else as this request reached it.
func (d *dialect) base(r *http.Request) string {
	if d.PublicURL != "" {
		return strings.TrimRight(d.PublicURL, "/")
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return scheme + r.Host
}

func (d *dialect) listMirrors(w http.ResponseWriter, r *http.Request) error {
	ch, err := d.ofKind(r, r.PathValue("channel"), isNoProxy)
	if err != nil {
		return err
	}
	resp, err := d.Channels.ListMirrors(r.Context(), &channelsv1.ListMirrorsRequest{Channel: ch.GetName()})
	if err != nil {
		return err
	}
	out := make([]channelMirror, 0, len(resp.GetMirrors()))
	for _, m := range resp.GetMirrors() {
		out = append(out, channelMirror{m.GetUrl(), m.GetApiEndpoint(), m.GetMetricsEndpoint(), m.GetId()})
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", out)
	return nil
}

func (d *dialect) registerMirror(w http.ResponseWriter, r *http.Request) error {
	f, _, err := d.channelForm(r, r.PathValue("channel"), isNoProxy)
	if err != nil {
		return err
	}
	req := &channelsv1.RegisterMirrorRequest{Channel: r.PathValue("channel"), RequestOrigin: d.base(r)}
	if f.require("url") {
		req.Url, _ = f.text("url")
	}
	req.ApiEndpoint, _ = f.string("api_endpoint")
	req.MetricsEndpoint, _ = f.string("metrics_endpoint")
	for _, u := range []struct{ field, value string }{
		{"url", req.GetUrl()}, {"api_endpoint", req.GetApiEndpoint()}, {"metrics_endpoint", req.GetMetricsEndpoint()},
	} {
		if u.value != "" && !strings.Contains(u.value, "${") { // of which the channel's own text says more
			f.httpURL(u.field, u.value)
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	if _, err := d.Channels.RegisterMirror(r.Context(), req); err != nil {
		return err
	}
	return writeNull(w, http.StatusCreated)
}

func (d *dialect) deleteMirror(w http.ResponseWriter, r *http.Request) error {
	ch, err := d.ofKind(r, r.PathValue("channel"), isNoProxy)
	if err != nil {
		return err
	}
	_, err = d.Channels.DeleteMirror(r.Context(), &channelsv1.DeleteMirrorRequest{Channel: ch.GetName(), Id: r.PathValue("id")})
	if err != nil {
		return err
	}
	return writeNull(w, http.StatusOK)
}
