"""Each file under deploy/ is read by the tool that knows its form."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def run(*command: str | Path, cwd: Path | None = None) -> None:
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, check=False)
    assert ran.returncode == 0, f"{command[0]}:\n{ran.stdout}{ran.stderr}"


def tool(name: str) -> str:
    """A program of this environment, or one of Debian's."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin")
    assert found is not None, f"{name} is not installed: run this by `nox -s deploy`, with Debian's package nginx"
    return found


@pytest.fixture
def nginx_folder(tmp_path: Path) -> Path:
    """The configuration with instances that have an address here."""
    for file in (DEPLOY / "nginx").iterdir():
        shutil.copy(file, tmp_path)
    names = (tmp_path / "upstreams.conf").read_text()
    (tmp_path / "upstreams.conf").write_text(names.replace("web-", "127.0.0."))
    return tmp_path


def check_nginx(folder: Path) -> None:
    log = f"pid {folder / 'nginx.pid'}; error_log {folder / 'error.log'};"
    run(tool("nginx"), "-t", "-p", folder, "-c", folder / "nginx.conf", "-g", log)


def test_nginx(nginx_folder: Path) -> None:
    check_nginx(nginx_folder)


def test_nginx_with_tls(nginx_folder: Path) -> None:
    (nginx_folder / "tls").mkdir()
    private, chain = nginx_folder / "tls" / "private.pem", nginx_folder / "tls" / "fullchain.pem"
    run(
        tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=community.example",
        "-keyout", private, "-out", chain,
    )  # fmt: skip
    tls = (nginx_folder / "server-tls.conf").read_text()
    (nginx_folder / "server.conf").write_text(tls.replace("/var/log/nginx", str(nginx_folder)))
    check_nginx(nginx_folder)


def test_compose() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose" / "compose.yaml")


@pytest.mark.parametrize("manifest", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes(manifest: Path) -> None:
    run(tool("kubernetes-validate"), "--strict", manifest)


def test_cloudformation() -> None:
    run(tool("cfn-lint"), DEPLOY / "aws" / "alb.yaml")


def test_templates_and_image_by_policy() -> None:
    frameworks = ("arm", "cloudformation", "dockerfile")
    run(tool("checkov"), "-d", DEPLOY, "--framework", *frameworks, "--skip-download", "--compact", "--quiet")


def documents(name: str) -> list[Any]:
    return [document for document in yaml.safe_load_all((DEPLOY / name).read_text()) if document]


def document(manifest: str, kind: str) -> Any:
    [found] = [document for document in documents(f"kubernetes/{manifest}.yaml") if document["kind"] == kind]
    return found


def pod_of(manifest: str) -> Any:
    return document(manifest, "Deployment")["spec"]["template"]["spec"]


def test_an_instance_is_killed_only_after_it_had_time_to_finish() -> None:
    pod = pod_of("web")
    [container] = pod["containers"]
    forgotten = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    readiness = container["readinessProbe"]
    assert forgotten >= readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] >= forgotten + 20 + 10  # requests under way, closing the parts


@pytest.mark.parametrize("place", ["kubernetes", "compose"])
def test_a_worker_is_killed_only_after_its_grace_period(place: str) -> None:
    if place == "kubernetes":
        pod = pod_of("worker")
        command, patience = pod["containers"][0]["command"], pod["terminationGracePeriodSeconds"]
    else:
        [compose] = documents("compose/compose.yaml")
        worker = compose["services"]["worker"]
        command, patience = worker["command"], int(worker["stop_grace_period"].rstrip("s"))
    assert patience > int(command[command.index("--grace") + 1])


def test_the_connections_of_a_rollout_fit_into_the_primary() -> None:
    """A new one and one that stops, besides the largest number; connections as the documentation counts them."""
    web, worker = document("web", "Deployment"), document("worker", "Deployment")
    pool = int(document("configuration", "ConfigMap")["data"]["ARAPONGA_DATABASE_POOL_SIZE"])
    instances, workers = document("web", "HorizontalPodAutoscaler")["spec"]["maxReplicas"], worker["spec"]["replicas"]
    for deployment in (web, worker):
        pod = deployment["spec"]["template"]["spec"]
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert deployment["spec"]["minReadySeconds"] >= pod["terminationGracePeriodSeconds"]
    in_a_rollout = (instances + 2) * (pool + 1) + (workers + 2) * (pool + 2)
    migration, probes, superusers = 1, workers + 2, 3
    settings = (DEPLOY / "compose" / "postgres" / "primary.conf").read_text()
    [largest] = re.findall(r"^max_connections = (\d+)", settings, re.MULTILINE)
    assert in_a_rollout + migration + probes + superusers <= int(largest)
