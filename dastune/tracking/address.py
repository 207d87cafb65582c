"""Where a study's MLflow store is, the environment MLflow runs in, and what of a URI may be shown."""

import os
import re
import sys
from pathlib import Path

from dastune.errors import UserError
from dastune.folder import StudyFolder

# To be set before MLflow is imported, where the user has not chosen otherwise: no telemetry, no log lines into the live
# table (failures are told by the tracker), no URLs on stdout. Retries are ours: MLflow's own would repeat a POST that
# makes a run, and hold the thread for minutes.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "PGCONNECT_TIMEOUT": "30",  # libpq's own is minutes
}

SECRET, FEWEST_SECRET_CHARACTERS = re.compile(r"PASSWORD|TOKEN|SECRET|API_?KEY", re.IGNORECASE), 4


def store_uri(folder: StudyFolder, uri: str | None) -> str:
    """Return the URI of a study's store: `uri`, else MLFLOW_TRACKING_URI, else the sqlite file in its folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.mlflow_store}"


def artifact_root(folder: StudyFolder, uri: str) -> str | None:
    """Return where a new experiment keeps its artifacts: a server decides itself, MLflow's default is ./mlruns."""
    if uri.startswith("sqlite:///"):
        return (Path(uri.removeprefix("sqlite:///")).absolute().parent / folder.mlflow_artifacts.name).as_uri()
    return folder.mlflow_artifacts.as_uri() if uri.startswith(("postgresql", "mysql", "mssql")) else None


def ui_command(folder: StudyFolder, uri: str | None, port: int = 5000) -> list[str]:
    """Return the command that serves the MLflow UI on loopback; run it in `ui_environment`.

    Raises UserError if the store is a server, which has its own UI.
    """
    uri = store_uri(folder, uri)
    if uri.startswith(("http:", "https:")):
        raise UserError(f"tracking.uri: {public(uri)} is a server with a UI of its own; open it in a browser")
    return [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def ui_environment(folder: StudyFolder, uri: str | None) -> dict[str, str]:
    """Return what `ui_command` needs in its environment; the store is here because its URI may hold a password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": store_uri(folder, uri),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": folder.mlflow_artifacts.as_uri(),  # else ./mlruns of wherever it is started
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes and twenty seconds, for nothing here
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
    }


def public(text: str) -> str:
    """Return the first line of `text`, at most 500 characters, without secrets.

    Its URIs lose user, password (which may hold a slash) and query; what a variable of the environment holds whose name
    says that it is secret, such as MLFLOW_TRACKING_TOKEN, becomes "***": servers quote what they refuse.
    """
    line = text.strip().partition("\n")[0]
    for variable, value in os.environ.items():
        if SECRET.search(variable) and len(value) >= FEWEST_SECRET_CHARACTERS:
            line = line.replace(value, "***")
    return re.sub(r"\?\S+", "", re.sub(r"(\w://)\S*@", r"\1", line))[:500]


def remedy(error: BaseException) -> str | None:
    """Return what a person has to do before the store can be used, where the error tells."""
    if isinstance(error, ImportError):
        return "install the database's driver; PostgreSQL's: pip install 'dastune[postgres]'"
    if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; a server that "
            "refuses every host but its own has to be started with --allowed-hosts"
        )
    return None
