"""What quetz-client 0.5.0 does, call by call, as its own command line does it: it builds objects from the exact keys of the
answers, so that one key more or less breaks it."""

from __future__ import annotations

from pathlib import Path

import requests
from quetz_client import QuetzClient
from quetz_client.client import ChannelMember, Profile, User

PEOPLE = ("quinn", "rosa")


def refused(status: int, call) -> None:
    try:
        call()
    except requests.HTTPError as e:
        assert e.response.status_code == status, f"{e.response.status_code} {e.response.text}, not {status}"
    else:
        raise AssertionError(f"a call went through that should be refused with {status}")


def check(url: str, key: str, packages: list[Path]) -> None:
    client = QuetzClient.from_token(url, key)
    for name in PEOPLE:
        response = client.session.post(f"{url}/entrepot/v1/users", json={"username": name, "name": name.capitalize()})
        assert response.status_code in (200, 409), response.text

    # Users and server roles.
    users = {u["username"] if isinstance(u, dict) else u.username: u for u in client.yield_users(limit=1)}
    assert set(PEOPLE) <= set(users), users
    assert isinstance(users["quinn"], User) and users["quinn"].profile["name"] == "Quinn", users["quinn"]
    assert [u.username for u in client.yield_users("rosa")] == ["rosa"]
    assert [r.role for r in client.get_role("quinn")] == [None]
    for role in ("member", "maintainer", None, "member"):
        client.set_role("quinn", role)
        assert [r.role for r in client.get_role("quinn")] == [role]
    refused(422, lambda: client.set_role("quinn", "boss"))
    refused(404, lambda: list(client.get_role("nobody")))

    # Channels, also with the query that the client always sends.
    client.set_channel("client-channel", private=False, description="made by quetz-client", ttl=60)
    client.set_channel("client-mirror", mirror_channel_url=f"{url}/get/client-channel", mirror_mode="mirror", actions=[], private=False)
    refused(409, lambda: client.set_channel("Client-Channel"))
    refused(422, lambda: client.set_channel("client_channel"))
    channels = {c.name: c for c in client.yield_channels(limit=1)}
    made = channels["client-channel"]
    assert (made.private, made.ttl, made.description, made.members_count, made.packages_count) == (False, 60, "made by quetz-client", 1, 0), made
    assert channels["client-mirror"].mirror_mode == "mirror", channels["client-mirror"]
    assert [c.name for c in client.yield_channels("CLIENT-C")] == ["client-channel"]

    # Members.
    client.set_channel_member("quinn", "member", "client-channel")
    client.set_channel_member("quinn", "maintainer", "client-channel")
    members = {m.user.username: m for m in client.yield_channel_members("client-channel")}
    assert isinstance(members["quinn"], ChannelMember) and members["quinn"].role == "maintainer", members
    assert members["quinn"].user.profile == Profile("Quinn", members["quinn"].user.profile.avatar_url), members["quinn"]
    client.delete_channel_member("quinn", "client-channel")
    refused(404, lambda: client.delete_channel_member("quinn", "client-channel"))
    refused(404, lambda: client.set_channel_member("nobody", "member", "client-channel"))
    refused(422, lambda: client.set_channel_member("quinn", None, "client-channel"))

    # Packages.
    for path in packages:
        client.post_file_to_channel("client-channel", path)
    refused(409, lambda: client.post_file_to_channel("client-channel", packages[0]))
    client.post_file_to_channel("client-channel", packages[0], force=True)
    names = [p.name for p in client.yield_packages("client-channel", limit=1)]
    assert names == sorted(names) and len(names) == len(set(names)) > 0, names
    newest = [p.latest_change for p in client.yield_packages("client-channel", order_by="latest_change:desc")]
    assert newest == sorted(newest, reverse=True), newest
    one = next(client.yield_packages("client-channel", query=names[0]))
    assert one.name == names[0] and one.platforms and one.current_version, one

    # A mirror that registers itself, with the client's own parameters.
    client.set_channel("client-registered", mirror_api_key=key, register_mirror=True, mirror_channel_url=f"{url}/get/client-channel", mirror_mode="mirror", actions=[])
    refused(404, lambda: client.delete_channel("client-none"))
    for name in ("client-registered", "client-mirror", "client-channel"):
        client.delete_channel(name)
    refused(404, lambda: list(client.yield_channel_members("client-channel")))
    stranger = QuetzClient.from_token(url, "x" * 32)
    refused(401, lambda: stranger.set_channel("stranger"))
