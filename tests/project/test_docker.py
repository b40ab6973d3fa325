"""What containers are made of agrees with the server: settings, files, times, metrics."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.metrics.page import ALERTS
from app.settings import Settings, unknown_variables
from app.supervisor import BACKGROUND_STOP_S, GRACE_S

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
DOCKER_STOP_S = 10
"""What `docker stop` gives before it kills."""


class Loader(yaml.SafeLoader):
    """Compose's own tags are read as what they are put on."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((ROOT / name).read_text(), Loader)
    return found


def variables(text: str) -> set[str]:
    """What compose takes from .env or the shell."""
    return set(re.findall(r"\$\{([A-Z_]+)", text))


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"\bSEEDVEC_[A-Z_]+", DOCKERFILE))
    for path in ("docker-compose.yml", "docker/tls.yml", ".env.example"):
        named |= set(re.findall(r"\bSEEDVEC_[A-Z_]+", (ROOT / path).read_text()))
    assert "SEEDVEC_API_KEY" in named
    assert not unknown_variables(dict.fromkeys(named, "x"))


def test_nobody_listens_without_a_key() -> None:
    assert "SEEDVEC_HOST=0.0.0.0" in DOCKERFILE
    for path in ("docker/Dockerfile", "docker-compose.yml", "docker/tls.yml", ".env.example"):
        assert "INSECURE" not in (ROOT / path).read_text(), path
    server = compose("docker-compose.yml")["services"]["seedvec"]
    assert server["environment"]["SEEDVEC_API_KEY"] == "${SEEDVEC_API_KEY:?put one in .env}"
    for service in compose("docker-compose.yml")["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_server_ends_before_docker_kills_it() -> None:
    drain_s = Settings(data=Path("x")).drain_s
    assert drain_s + GRACE_S < DOCKER_STOP_S
    assert BACKGROUND_STOP_S < DOCKER_STOP_S
    assert compose("docker-compose.yml")["services"]["seedvec"]["stop_grace_period"] == f"{DOCKER_STOP_S}s"


def test_the_example_of_env_names_all_that_compose_asks_for() -> None:
    example = (ROOT / ".env.example").read_text()
    offered = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker/tls.yml").read_text()
    passed_on = {k for k, v in compose("docker-compose.yml")["services"]["seedvec"]["environment"].items() if v is None}
    assert variables(text) | passed_on == offered
    assert re.search(r"^SEEDVEC_API_KEY=$", example, re.MULTILINE), "no key that everybody knows"
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_what_is_mounted_or_copied_is_there() -> None:
    services = compose("docker-compose.yml")["services"]
    mounts = [volume for service in services.values() for volume in service["volumes"]]
    for source in (volume.partition(":")[0] for volume in mounts if volume.startswith("./")):
        assert (ROOT / source).exists(), source
    admitted = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            source = source.replace("${WHEELS}", "docker/wheels")
            assert (ROOT / source).exists(), source
            assert f"!{source}" in admitted or f"!{source.partition('/')[0]}" in admitted, source


def test_the_container_is_bounded_and_bare() -> None:
    server = compose("docker-compose.yml")["services"]["seedvec"]
    assert server["read_only"] is True and server["cap_drop"] == ["ALL"]
    assert {"mem_limit", "cpus", "pids_limit", "ulimits", "init"} <= set(server)
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert 'CMD ["seedvec", "health"]' in DOCKERFILE and "curl" not in DOCKERFILE


def test_monitoring_only_where_it_is_asked_for_and_with_the_key_that_reads() -> None:
    whole = compose("docker-compose.yml")
    others = {name: service for name, service in whole["services"].items() if name != "seedvec"}
    assert set(others) == {"prometheus", "grafana"}
    assert all(service["profiles"] == ["monitoring"] for service in others.values())
    (secret,) = others["prometheus"]["secrets"]
    assert whole["secrets"][secret] == {"environment": "SEEDVEC_READ_KEY"}
    (job,) = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())["scrape_configs"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert job["static_configs"] == [{"targets": ["seedvec:8080"]}]


def test_the_alerts_are_those_of_the_page() -> None:
    (group,) = yaml.safe_load((ROOT / "docker/alerts.yml").read_text())["groups"]
    assert {rule["annotations"]["summary"]: rule["expr"] for rule in group["rules"]} == ALERTS
    assert len({rule["alert"] for rule in group["rules"]}) == len(ALERTS)


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    (source,) = provisioned["datasources"]
    dashboard = json.loads((ROOT / "docker/grafana/seedvec.json").read_text())
    assert len(dashboard["panels"]) > 10
    for panel in dashboard["panels"]:
        assert all(target["datasource"]["uid"] == source["uid"] for target in panel["targets"]), panel["title"]
    (provider,) = yaml.safe_load((ROOT / "docker/grafana/provisioning/dashboards/seedvec.yml").read_text())["providers"]
    mounts = compose("docker-compose.yml")["services"]["grafana"]["volumes"]
    assert any(f":{provider['options']['path']}/" in mount for mount in mounts)


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker/tls.yml"])
def test_secrets_that_are_used_are_declared(name: str) -> None:
    whole = compose(name)
    used = {secret for service in whole["services"].values() for secret in service.get("secrets", ())}
    assert used == set(whole.get("secrets", {}))
