"""URLs of Sentinel are read as they are written, and never shown with their passwords."""

from __future__ import annotations

import pytest
from redis.asyncio import SSLConnection

from memory.store.sentinel import SentinelUrl
from memory.store.servers import address_of, connection_pool, split_urls, user_of, with_credentials

FULL = "rediss+sentinel://me:p%40ss@one:1,[::1]:2,three/mine/0?ssl_ca_certs=/ca.pem&sentinel_password=other"


def test_all_parts_are_read() -> None:
    read = SentinelUrl.parse(FULL)
    assert read.sentinels == (("one", 1), ("::1", 2), ("three", 26379))
    assert (read.service, read.scheme, read.database) == ("mine", "rediss", 0)
    assert read.sentinel_options == (("password", "other"),)
    assert read.server_url("10.0.0.7", 6380) == "rediss://me:p%40ss@10.0.0.7:6380/0?ssl_ca_certs=%2Fca.pem"
    assert read.server_url("::1", 1) == "rediss://me:p%40ss@[::1]:1/0?ssl_ca_certs=%2Fca.pem"


def test_the_pool_of_a_tls_url_speaks_tls_and_knows_user_and_authority() -> None:
    pool = connection_pool(FULL.replace("&sentinel", "&ssl_check_hostname=false&sentinel"), size=1, connect_timeout_s=1)
    connection = pool.make_connection()
    assert isinstance(connection, SSLConnection)
    assert (connection.username, connection.password, connection.ca_certs) == ("me", "p@ss", "/ca.pem")
    plain = connection_pool("redis+sentinel://one/mine", size=1, connect_timeout_s=1).make_connection()
    assert not isinstance(plain, SSLConnection)


def test_an_address_shows_neither_user_nor_password() -> None:
    assert address_of(FULL) == "rediss+sentinel://one:1,[::1]:2,three:26379/mine"
    assert address_of("redis://me:secret@host") == "redis://host:6379"
    assert address_of("unix://me:secret@/run/redis.sock?db=0") == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("url", "user"),
    [
        (FULL, "me"),
        ("redis://night%20jobs:secret@host:1/0?a=b", "night jobs"),
        ("unix://me:secret@/run/redis.sock?db=0", "me"),
        ("unix:///run/redis.sock?username=me&password=secret", "me"),
        ("redis://:secret@host", "default"),
        ("redis://host", "default"),
    ],
)
def test_the_user_that_a_url_names_is_known(url: str, user: str) -> None:
    assert user_of(url) == user


@pytest.mark.parametrize(
    "url", ["redis://me:sec#ret@host", "redis://me:se/cret@host", "redis+sentinel://me:sec/ret@h/s"]
)
def test_a_url_that_cannot_be_read_is_not_shown_at_all(url: str) -> None:
    assert address_of(url) in ("a URL that cannot be read", "redis://me:6379")
    assert "sec" not in address_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://host",
        "redis+sentinel:///service",
        "redis+sentinel://host:port/service",
        "redis+sentinel://a,,b/service",
        "redis+sentinel://host/service/nine",
        "redis+sentinel://host:1:2/service",
    ],
)
def test_a_malformed_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+sentinel://user:password@host:26379") as caught:
        SentinelUrl.parse(url.replace("://", "://me:canary@"))
    assert "canary" not in str(caught.value)


def test_lists_are_split_between_urls_and_not_inside_them() -> None:
    assert split_urls("redis://a, redis+sentinel://b:1,c:2/mine,unix:///d") == (
        "redis://a",
        "redis+sentinel://b:1,c:2/mine",
        "unix:///d",
    )
    assert split_urls("") == ()


def test_another_user_takes_the_place_of_the_one_in_the_url() -> None:
    for url in ("redis://host:1/0?a=b", "redis://old:word@host:1/0?a=b", "redis://:word@host:1/0?a=b"):
        assert with_credentials(url, "default.jobs", "a/b@c") == "redis://default.jobs:a%2Fb%40c@host:1/0?a=b"
    assert with_credentials("unix:///run/r.sock", "u", "p") == "unix://u:p@/run/r.sock"
    with pytest.raises(ValueError, match="no URL"):
        with_credentials("host:6379", "u", "p")
