package identity

import (
	"context"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// RemoteChannels finds channels by asking the channels service, as this process itself: whether the caller may know of
// them is decided afterwards, by their roles.
func RemoteChannels(client channelsv1.ChannelServiceClient) ChannelResolver {
	return remoteChannels{client}
}

type remoteChannels struct {
	client channelsv1.ChannelServiceClient
}

func (r remoteChannels) Channel(ctx context.Context, name string) (authz.Resource, error) {
	c, err := r.client.GetChannel(rpc.AsTarget(ctx), &channelsv1.GetChannelRequest{Channel: name})
	if err != nil {
		return authz.Resource{}, err
	}
	return authz.Resource{Kind: authz.Channel, ID: c.GetId(), Name: c.GetName(), Namespace: c.GetNamespace(), Public: !c.GetPrivate()}, nil
}

func (r remoteChannels) Package(ctx context.Context, channel authz.Resource, name string) error {
	_, err := r.client.GetPackage(rpc.AsTarget(ctx), &channelsv1.GetPackageRequest{Channel: channel.Name, Package: name})
	return err
}
