package restclient

import (
	"context"
	"net/http"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Schedules lists a channel's schedules.
func (c *Client) Schedules(ctx context.Context, channel string) ([]*channelsv1.Schedule, error) {
	out := &channelsv1.ListSchedulesResponse{}
	err := c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "schedules"), nil, out)
	return out.GetSchedules(), err
}

// SetSchedule makes or replaces a schedule.
func (c *Client) SetSchedule(ctx context.Context, channel, name string, set *channelsv1.Schedule) (*channelsv1.Schedule, error) {
	out := &channelsv1.Schedule{}
	return out, c.call(ctx, http.MethodPut, c.api(nil, "channels", channel, "schedules", name), set, out)
}

// DeleteSchedule ends a schedule.
func (c *Client) DeleteSchedule(ctx context.Context, channel, name string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "channels", channel, "schedules", name), nil, nil)
}
