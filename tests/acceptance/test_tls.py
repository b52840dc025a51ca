"""TLS by URL: the whole life of characters with every server behind it, and a wrong authority."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from statesync import GameStore, Settings
from statesync.durable import database
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from statesync.errors import BrokerUnavailable, DatabaseUnavailable, RedisUnavailable
from statesync.game.enqueue import enqueue_backup
from statesync.hot.store import HotStore
from tests.acceptance.conftest import wait_until
from tests.acceptance.whole_life import live_whole_life
from tests.rabbitmq import RabbitMQ
from tests.tls import Authority, encrypted

VERIFY = re.compile("certificate.verify", re.IGNORECASE)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def ports(authority: Authority, embedded: Servers) -> Iterator[tuple[int, int]]:
    """The ports of Redis and PostgreSQL behind TLS."""

    def dial(name: str) -> Callable[[], Any]:
        return lambda: asyncio.open_unix_connection(str(embedded.sockets / name))

    with (
        encrypted(authority, dial("valkey.sock")) as redis_port,
        encrypted(authority, dial(".s.PGSQL.5432"), postgresql=True) as port,
    ):
        yield redis_port, port


def with_tls(settings: Settings, ports: tuple[int, int], certificate: Path) -> Settings:
    """The test's settings with URLs that trust one authority."""
    name = make_url(settings.database_url).database
    check = f"sslmode=verify-full&sslrootcert={certificate}"
    return replace(
        settings,
        redis_url=f"rediss://127.0.0.1:{ports[0]}/0?ssl_ca_certs={certificate}",
        database_url=f"postgresql://postgres@127.0.0.1:{ports[1]}/{name}?{check}",
        broker_url="",
        result_url="",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("stack")
def test_the_whole_life_with_every_server_behind_tls(
    settings: Settings, embedded: Servers, ports: tuple[int, int], authority: Authority
) -> None:
    live_whole_life(embedded, with_tls(settings, ports, authority.certificate))


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["rabbitmq"], indirect=True)
def test_rabbitmq_behind_tls(
    settings: Settings,
    stack: Stack,
    rabbitmq: RabbitMQ,
    authority: Authority,
    tmp_path: Path,
    hot: HotStore,
) -> None:
    def dial() -> Any:
        return asyncio.open_connection("127.0.0.1", rabbitmq.port)

    with encrypted(authority, dial) as port:
        url = f"amqps://guest:guest@127.0.0.1:{port}//?ssl_ca_certs="
        stack.settings = replace(settings, broker_url=f"{url}{authority.certificate}")
        stack.start_worker()
        hot.create(1, state="exploration")
        with enqueue_backup(stack.settings) as enqueue:
            enqueue(1)
        wait_until(lambda: hot.status()[:2] == (0, 0))
        wrong = replace(settings, broker_url=f"{url}{Authority(tmp_path).certificate}")
        with enqueue_backup(wrong) as enqueue, pytest.raises(BrokerUnavailable, match=VERIFY):
            enqueue(1)


def test_a_server_of_another_authority_is_refused(
    settings: Settings, ports: tuple[int, int], tmp_path: Path
) -> None:
    wrong = with_tls(settings, ports, Authority(tmp_path).certificate)
    with GameStore(wrong) as store, pytest.raises(RedisUnavailable, match=VERIFY):
        store.get(1)
    engine = database.connect(wrong)
    with pytest.raises(DatabaseUnavailable, match=VERIFY):
        database.ping(engine)
    engine.dispose()
