"""deploy/: manifests and compose file against their schemas, rules and dashboard against the metrics that really exist."""

from __future__ import annotations

import configparser
import importlib.resources
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from pipeline.__main__ import app as command_line
from pipeline.nightly.record import JobRecord
from pipeline.release.deploy import GATEWAY_MIB, DeployOptions, measure_run, render_manifests
from pipeline.reproduce_record import write_settings
from pipeline.settings.config import load_config
from serving.gateway.app import GatewaySettings, create_app
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.settings import load_settings
from serving.releases.models_config import PROMETHEUS_PATH
from serving.releases.promotion import promote
from serving.releases.release import publish
from serving.server.prometheus import ServerMetrics
from serving.status import ServingError
from tests.serving.fake_recommender import FakeRecommender
from tests.serving.gateway_folders import write_folders
from tests.serving.release_files import publish_all, write_files

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.33"
"""A year old, and still maintained: what it takes, newer ones take too."""
MIB = 1 << 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one stable release of 3 MiB of models."""
    folder, _ = write_folders(tmp_path_factory.mktemp("deploy"))
    releases = publish_all(folder / "releases", 1)
    promote(releases, 1)
    return folder


@pytest.fixture(scope="module")
def manifests(run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `python -m pipeline deploy` writes."""
    out = tmp_path_factory.mktemp("manifests")
    arguments = ["deploy", "--run", str(run), "--out", str(out), "--namespace", "music", "--storage-class", "nfs"]
    result = CliRunner().invoke(command_line, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [document for file in sorted(out.iterdir()) for document in yaml.safe_load_all(file.read_text())]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and spec of every pod template."""
    for name, manifest in of_kind(manifests, "Deployment").items():
        template = manifest["spec"]["template"]
        yield name, template["metadata"]["labels"], template["spec"]
    for name, manifest in of_kind(manifests, "CronJob").items():
        template = manifest["spec"]["jobTemplate"]["spec"]["template"]
        yield name, template["metadata"]["labels"], template["spec"]


def test_manifests_follow_the_schemas_of_kubernetes(manifests: list[dict[str, Any]]):
    assert {manifest["kind"] for manifest in manifests} == {
        "Namespace", "PersistentVolumeClaim", "Deployment", "Service", "HorizontalPodAutoscaler",
        "PodDisruptionBudget", "ConfigMap", "CronJob",
    }  # fmt: skip
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    broken = {**manifests[-1], "spec": {**manifests[-1]["spec"], "shedule": "* * * * *"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="shedule"):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_manifests_name_nothing_that_is_not_there(manifests: list[dict[str, Any]]):
    deployments, claims = of_kind(manifests, "Deployment"), of_kind(manifests, "PersistentVolumeClaim")
    maps, labels = of_kind(manifests, "ConfigMap"), {name: found for name, found, _ in pods(manifests)}
    for name, manifest in deployments.items():
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    for _, _, spec in pods(manifests):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": "run"})["claimName"] in claims
            assert "configMap" not in volume or volume["configMap"]["name"] in maps
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            assert ":" in container["image"] and not container["image"].endswith(":latest")
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                action = container.get(probe, {}).get("httpGet") or container.get(probe, {}).get("tcpSocket")
                assert action is None or action["port"] in ports
    for service in of_kind(manifests, "Service").values():
        selected = [
            {port["name"] for port in spec["containers"][0].get("ports", ())}
            for _, found, spec in pods(manifests)
            if service["spec"]["selector"].items() <= found.items()
        ]
        assert selected
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in names for names in selected)
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler").values():
        target = deployments[scaler["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"], "applying the file again would undo the autoscaler"
    for budget in of_kind(manifests, "PodDisruptionBudget").values():
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= found.items() for found in labels.values())
    assert {manifest["metadata"].get("namespace", "music") for manifest in manifests} == {"music"}


def test_gateways_differ_by_label_alone(manifests: list[dict[str, Any]], tmp_path: Path):
    settings = {}
    texts = {name: found["data"]["gateway.toml"] for name, found in of_kind(manifests, "ConfigMap").items()}
    texts |= {f"compose {file.stem}": file.read_text() for file in sorted(DEPLOY.glob("gateway*.toml"))}
    for name, text in texts.items():
        (tmp_path / "gateway.toml").write_text(text)
        settings[name] = load_settings(tmp_path / "gateway.toml")
    assert {name: found.label for name, found in settings.items()} == {
        "gateway": "stable", "gateway-canary": "canary", "compose gateway": "stable", "compose gateway-canary": "canary",
    }  # fmt: skip
    assert settings["gateway"].target == "dns:///serving.music.svc.cluster.local:8500"
    deployments, compose = of_kind(manifests, "Deployment"), yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert deployments["gateway-canary"]["spec"]["replicas"] == 0
    # Feedback and changed items too: an item deleted through one is not to be answered by the other.
    mounts = {}
    for name in ("gateway", "gateway-canary"):
        for place in (name, f"compose {name}"):
            assert settings[place].model_copy(update={"label": "stable"}) == settings[place.replace("-canary", "")]
        mounts[name] = [
            deployments[name]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"],
            [volume for volume in compose["services"][name]["volumes"] if ".toml" not in volume],
        ]
    assert mounts["gateway"] == mounts["gateway-canary"]


def test_a_key_file_that_is_replaced_is_the_one_that_gateways_read(manifests: list[dict[str, Any]]):
    """A mounted file stays the one of the start: what is mounted is its folder, and nothing else that is secret is in it."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name in ("gateway", "gateway-canary"):
        keys = load_settings(DEPLOY / f"{name}.toml").keys
        assert keys is not None
        mounts = dict(volume.removesuffix(":ro").rsplit(":", 1)[::-1] for volume in compose["services"][name]["volumes"])
        assert str(keys) not in mounts and "secrets" not in compose["services"][name]
        source = mounts[str(keys.parent)]
        folder = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", source)
        assert f"--keys {(Path('deploy') / folder / keys.name).as_posix()}" in (DEPLOY / "README.md").read_text()
        assert not [secret for secret in compose["secrets"].values() if secret["file"].startswith(f"{source}/")]
        container = of_kind(manifests, "Deployment")[name]["spec"]["template"]["spec"]["containers"][0]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "keys"]
        assert "subPath" not in mount


def test_memory_and_disk_follow_the_sizes_of_releases(tmp_path: Path):
    """Two releases loaded, twice their files each; disk for five releases and half as much again."""
    releases = publish_all(tmp_path / "releases", 1)
    promote(releases, 1)
    small = measure_run(tmp_path)
    with publish(releases, 2) as staging:
        write_files(staging, 2)
        for name in ("ranking", "retrieval_scann"):  # the stock server loads only the first
            (staging / name / "2" / "weights").write_bytes(bytes(10 * MIB))
    large = measure_run(tmp_path)
    assert large["models_mib"] - small["models_mib"] == 10
    for name in ("serving_request_mib", "serving_limit_mib"):
        assert large[name] - small[name] == 2 * 2 * 10
    assert large["release_mib"] == 21  # both models, and a little beside them
    assert large["run_storage_gib"] == 1
    assert (small["canary_replicas"], large["version"]) == (0, 2)
    promote(releases, 2, "canary")
    assert measure_run(tmp_path)["canary_replicas"] == 1
    text = render_manifests(large, DeployOptions())["2-serving.yaml"]
    assert f"memory: {large['serving_limit_mib']}Mi" in text and large["fingerprint"] in text
    with pytest.raises(ValueError, match=r"max_replicas: must be at least replicas \(9\), received 8"):
        DeployOptions(replicas=9)
    with pytest.raises(ValueError, match="cpus: must be at least 1, received 0"):
        DeployOptions(cpus=0)


def test_gateways_and_volume_are_sized_for_what_jobs_leave(tmp_path: Path):
    """The stable release came from a job, as all do in a shop that only runs jobs; the run itself has ingested nothing."""
    run, stages = tmp_path / "run", ("served/full", "index", "ranking", "policy")
    for number in (1, 2):
        job = run / "jobs" / f"000{number}"
        JobRecord(number, "", None, "", "", "", True).write(job)
        write_settings(job, load_config(overrides=[f"job.keep={4 * number}", f'encoders.store="{tmp_path}/media"']))
        for stage in (*stages, "ingest"):
            (job / stage).mkdir(parents=True)
            (job / stage / "manifest.json").write_text(f'{{"key": "{number}"}}')
        (job / "ingest" / "items.parquet").write_bytes(bytes(number * 100 * MIB))
        with publish(run / "releases", number, details={"made_from": dict.fromkeys(stages, str(number))}) as staging:
            write_files(staging, number)
    promote(run / "releases", 1)
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "vectors").write_bytes(bytes(300 * MIB))
    figures = measure_run(run, keep=4)
    assert figures["gateway_request_mib"] == GATEWAY_MIB + 8 * 200 + 1, "the newest release may be promoted"
    assert (figures["jobs_kept"], figures["job_mib"], figures["store_mib"]) == (4 + 2 + 1, 201, 300)
    assert figures["run_storage_gib"] == math.ceil(1.5 * (7 * 200 + 300) / 1024)
    shutil.rmtree(run / "releases" / "2")
    alone = measure_run(run)
    assert alone["gateway_request_mib"] == GATEWAY_MIB + 8 * 100 + 1 and alone["jobs_kept"] == 4 + 2 + 1
    for name, size in (("feature-store", 380), ("feature-store-weights", 20)):  # where the manifest has it
        (run / name).mkdir()
        (run / name / "vectors").write_bytes(bytes(size * MIB))
    there = measure_run(run)
    assert (there["store_mib"], there["run_mib"]) == (400, alone["run_mib"])


def test_the_volume_of_a_run_without_jobs_has_room_for_them(tmp_path: Path):
    run = tmp_path / "run"
    promote(publish_all(run / "releases", 1), 1)
    for name in ("ingest", "gateway"):
        (run / name).mkdir()
        (run / name / "items.parquet").write_bytes(bytes(400 * MIB))
    figures = measure_run(run)
    assert (figures["run_mib"], figures["job_mib"], figures["jobs_kept"]) == (800, 401, 3 + 2 + 1)
    assert figures["run_storage_gib"] == math.ceil(1.5 * (6 * 400 + 800) / 1024)
    text = render_manifests(figures, DeployOptions())["1-storage.yaml"]
    assert "6 folders of jobs of 401 MiB" in text and f"storage: {figures['run_storage_gib']}Gi" in text


# ---- compose


def test_compose_follows_its_schema_and_names_what_is_there(manifests: list[dict[str, Any]]):
    schema = importlib.resources.files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json")
    compose, readme = yaml.safe_load((DEPLOY / "compose.yaml").read_text()), (DEPLOY / "README.md").read_text()
    jsonschema.validate(compose, json.loads(schema.read_text()))
    services = compose["services"]
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{service['image']}: no pinned tag"
        assert set(service.get("depends_on", ())) <= set(services)
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            made = f"mkdir -p {(Path('deploy') / source).as_posix()} " in readme  # by who deploys it
            assert source in compose["volumes"] or "runs/" in source or made or (DEPLOY / source).exists(), volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{port} is open to everybody"
    container = of_kind(manifests, "Deployment")["serving"]["spec"]["template"]["spec"]["containers"][0]
    command = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", argument) for argument in services["serving"]["command"]]
    assert command == container["args"]
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in command)
    assert flags["tensorflow_intra_op_parallelism"] == "1"
    assert flags["tensorflow_inter_op_parallelism"] == container["resources"]["requests"]["cpu"]
    # TF Serving batches only requests whose every input has a line a request, which `k` has not.
    assert "enable_batching" not in flags
    assert services["serving"]["image"] == container["image"]
    # A request of the health check, byte for byte, as the shell in the container sends it.
    script = services["serving"]["healthcheck"]["test"][-1]
    assert r"GET /v1/models/ranking/labels/stable/metadata HTTP/1.0\r\n\r\n" in script
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


def test_dockerfile_copies_what_is_there():
    lines = (DEPLOY / "gateway.Dockerfile").read_text().splitlines()
    assert re.fullmatch(r"FROM python:3\.1[123]\.\d+-slim-\w+", next(line for line in lines if line.startswith("FROM")))
    kept = {line[1:] for line in (DEPLOY / "gateway.Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists() and name in kept, name


def test_no_secret_of_a_deployment_comes_into_the_image_or_the_repository():
    """By Docker's rule: of the patterns that a path lies under, the last one decides."""
    rules = [line for line in (DEPLOY / "gateway.Dockerfile.dockerignore").read_text().splitlines() if line[0] != "#"]

    def sent(path: str) -> bool:
        parents = list(itertools.accumulate(path.split("/"), "{}/{}".format))
        under = [rule for rule in rules if any(fnmatch(part, rule.lstrip("!")) for part in parents)]
        return not under or under[-1][0] == "!"

    assert sent("deploy/nightly.sh") and sent("serving/json_log.py") and not sent("tests/conftest.py")
    readme = (DEPLOY / "README.md").read_text()
    secrets = {*re.findall(r"deploy/secrets/\w+(?:\.\w+)?", readme), "deploy/secrets/gateway"}
    assert len(secrets) == 3, secrets
    assert not [path for path in secrets | {"deploy/secrets/gateway/gateway_keys.json"} if sent(path)]
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


# ---- Prometheus and Grafana


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, set[str]]:
    """Names of every series that a gateway and a model server expose, with the labels that they carry."""
    fake = FakeRecommender()
    app = create_app(GatewaySettings(run=run, cache_seconds=0), fake)
    pages = []
    with TestClient(app) as client:
        assert client.post("/v1/recommend", json={"user_id": "ann"}).status_code == 200
        fake.error = ServingError(grpc.StatusCode.ABORTED, "a mixed pair")
        assert client.post("/v1/recommend", json={"user_id": "ann"}).json()["fallback_reason"] == "ABORTED"
        pages.append(client.get("/metrics").text)
    breakers, server = GatewayMetrics(), ServerMetrics()
    breakers.watch_breakers(lambda: {"ranking": "closed"})
    server.record("ranking", "Predict", "GRPC", "OK", 1200.0)
    server.record_runtime("ranking", "Predict", 900.0)
    pages += [breakers.expose().decode(), server.page()]
    found: dict[str, set[str]] = {"up": {"instance"}}
    for page in pages:
        for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, flags=re.MULTILINE):
            suffixes = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
            found |= {name + suffix: set() for suffix in suffixes if name + suffix not in found}
        for name, labels in re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$", page, flags=re.MULTILINE):
            found[name].update(re.findall(r'(\w+)="', labels))
    return found


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Metric and matched labels of every selector in a PromQL expression, which must parse."""

    def walk(node: Any) -> Iterator[Any]:
        if type(node).__name__ == "VectorSelector":
            yield node
        for name in ("lhs", "rhs", "expr", "vector_selector"):
            if hasattr(node, name):
                yield from walk(getattr(node, name))
        for argument in getattr(node, "args", ()):
            yield from walk(argument)

    return [
        (found.name, {matcher.name for matcher in found.matchers.matchers})
        for found in walk(promql_parser.parse(expression))
    ]


def grouped(expression: str) -> set[str]:
    return {label.strip() for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in labels.split(",")}


def check(expression: str, metrics: dict[str, set[str]]) -> None:
    """Every metric exists, and every label that is matched or grouped by is one of a metric's own or Prometheus's."""
    found = selectors(expression)
    assert found, expression
    for name, labels in found:
        assert name in metrics, f"{name} is exposed by nobody: {expression}"
        if metrics[name]:
            assert labels <= metrics[name] | {"job", "instance"}, f"{name} has no label {labels}"
    if all(metrics[name] for name, _ in found):
        known = set().union(*(metrics[name] for name, _ in found)) | {"job", "instance"}
        assert grouped(expression) <= known, f"{grouped(expression)} against {known}: {expression}"


def test_selectors_are_found():
    text = 'sum by (job) (rate(a:b{x="1"}[5m])) / c > 0.5 and d{y=~"1|2", z!="3"} == 0'
    assert selectors(text) == [("a:b", {"x"}), ("c", set()), ("d", {"y", "z"})]
    with pytest.raises(ValueError, match="expected type matrix"):
        selectors("rate(a)")


def test_alerts_watch_metrics_that_exist(metrics: dict[str, set[str]]):
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert set(rules) == {"groups"}
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    for group in rules["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
    for rule in alerts:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("page", "warn")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        check(rule["expr"], metrics)
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in grouped(rule["expr"]) | {"job", "instance"}
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    watched = " ".join(rule["expr"] for rule in alerts)
    for name in ("stage_seconds_bucket", "fallbacks_total", "requests_total", "score_drift", 'reason="ABORTED"'):
        assert name in watched


def test_a_job_without_any_target_is_told_of():
    """A job that finds its targets by name has no series `up` at all where the name is gone."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    watched = re.fullmatch(r'up\{job=~"([\w|]+)"\} == 0', rules["TargetDown"])
    gone = re.findall(r'absent\(up\{job="(\w+)"\}\)', rules["TargetsGone"])
    assert watched and sorted(watched[1].split("|")) == sorted(gone) == ["gateway", "serving"]
    assert rules["TargetsGone"] == " or ".join(f'absent(up{{job="{job}"}})' for job in gone)


def test_prometheus_scrapes_what_serves_metrics():
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["serving"]["metrics_path"] == PROMETHEUS_PATH
    names = [target.split(":")[0] for target in jobs["serving"]["static_configs"][0]["targets"]]
    names += [name for job in jobs.values() for found in job.get("dns_sd_configs", ()) for name in found["names"]]
    assert set(names) <= set(services)


def test_dashboard_draws_metrics_that_exist(metrics: dict[str, set[str]]):
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "triptych.json").read_text())
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "triptych.yaml").read_text())["providers"][0]
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes
    panels, taken = dashboard["panels"], set()
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"] and panel["description"]
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, f"{panel['title']} lies on another panel"
        taken |= cells
        for target in panel["targets"]:
            check(target["expr"].replace("$job", "gateway"), metrics)
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in grouped(target["expr"]) | {"instance"}
    variable = dashboard["templating"]["list"][0]["query"]["query"]
    assert re.fullmatch(r"label_values\((\w+), job\)", variable)[1] in metrics  # type: ignore[index]


def test_shares_are_of_all_recommendations():
    """Kept answers have no stage `total`, and stand-ins of a search are no recommendations."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "triptych.json").read_text())
    expressions = [rule["expr"] for group in rules for rule in group["rules"]]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shares = [text for text in expressions if re.search(r"(fallbacks|unknown_users)_total\S* /", text)]
    assert len(shares) == 3 and not [text for text in expressions if "stage_seconds_count" in text]
    for text in shares:
        assert "triptych_gateway_cache_total[5m]" in text.partition("/")[2]
        assert "unknown_users" in text or 'fallbacks_total{stage="recommend"}' in text


# ---- nightly job


def test_units_of_systemd_start_what_is_there():
    service, timer = configparser.ConfigParser(strict=False), configparser.ConfigParser()
    for parser in (service, timer):
        parser.optionxform = str  # type: ignore[assignment, method-assign]
    service.read(DEPLOY / "systemd" / "triptych-training.service")
    timer.read(DEPLOY / "systemd" / "triptych-training.timer")
    assert timer["Timer"]["Unit"] == "triptych-training.service"
    assert (ROOT / service["Service"]["ExecStart"].split()[-1]).is_file()
    verify = shutil.which("systemd-analyze")
    if verify:
        done = subprocess.run([verify, "calendar", timer["Timer"]["OnCalendar"]], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_night_makes_the_new_release_the_canary_once(tmp_path: Path):
    """The script itself, with training left out."""
    run, binaries = tmp_path / "run", tmp_path / "bin"
    releases = publish_all(run / "releases", 1)
    promote(releases, 1)
    binaries.mkdir()
    stand_in = binaries / "python"
    code = "from pipeline.commands.release import release_app; release_app()"  # the command itself, without its neighbours
    job = '[ "$3" = job ] && exit "${JOB_EXIT:-0}"'
    stand_in.write_text(f'#!/bin/sh\n{job}\nshift 3\nexec {sys.executable} -c "{code}" "$@"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"OUT": str(run), "DATA": "d", "CONFIG": "c"}

    def night() -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", "deploy/nightly.sh"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    publish_all(releases, 2)
    first = night()
    assert first.returncode == 0 and "stable 1, canary 2" in first.stdout, first.stderr
    second = night()
    assert second.returncode == 0 and "nothing was changed" in second.stdout, second.stderr
    for code in ("10", "11", "12", "13"):  # kept, stopped, locked, failed: the scheduler is told, no label moves
        environment["JOB_EXIT"] = code
        kept = night()
        assert kept.returncode == int(code) and "canary" not in kept.stdout, kept.stderr
    del environment["JOB_EXIT"]
    publish_all(releases, 3, 4, 5, 6)
    undecided = night()
    assert undecided.returncode == 14 and "release 2 is the canary still" in undecided.stderr, undecided.stderr
    there = sorted(path.name for path in releases.glob("[0-9]"))
    assert there == ["1", "2", "4", "5", "6"], "clearing up goes on: what has a label and the newest three stay"
