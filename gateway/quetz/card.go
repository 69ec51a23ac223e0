package quetz

import (
	"net/http"
	"strconv"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// getChannel answers as QuetzService.GetChannel does, from what the edge knows of the channel: this is what clients ask most
// often besides files.
func (d *dialect) getChannel(w http.ResponseWriter, r *http.Request) error {
	card, err := d.Files.Card(r.Context(), r.PathValue("channel_name"))
	if err != nil {
		return err
	}
	data, err := card.JSON(renderChannel)
	if err != nil {
		return err
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	_, _ = w.Write(data) // a client that went away needs no other answer
	return nil
}

func renderChannel(ch *channelsv1.Channel) ([]byte, error) {
	return (&edge.Marshaler{NullWhenEmpty: nullWhenEmpty}).Marshal(channelToQuetz(ch))
}
