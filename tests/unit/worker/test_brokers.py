"""What Celery is told of a broker by its URL."""

from __future__ import annotations

from statesync.worker.brokers import reach


def test_certificates_of_rabbitmq_are_options_and_the_rest_stays_in_the_url() -> None:
    files = "ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/c.key"
    url, options = reach(f"amqps://bob:x@rabbit:5671//?heartbeat=5&{files}", seconds=5)
    assert url == "amqps://bob:x@rabbit:5671//?heartbeat=5"
    assert options["ssl"] == {
        "server_hostname": "rabbit",
        "ca_certs": "/ca.pem",
        "certfile": "/c.pem",
        "keyfile": "/c.key",
    }


def test_rabbitmq_without_tls_has_none() -> None:
    url, options = reach("amqp://rabbit//", seconds=5)
    assert url == "amqp://rabbit//"
    assert "ssl" not in options
