"""The error tree: what a caller can do about a failed request.

    KubeRayError
    ├── InvalidSpecError         the spec or manifest would be refused, silently or not; carries every reason
    ├── ApiError            Kubernetes (or the Ray head) refused or did not understand the request
    │   ├── ForbiddenError       a right is missing: names the verb and the resource
    │   ├── NotInstalledError    the KubeRay operator's custom resources are not known to the cluster
    │   └── QuotaExceededError   the namespace has no room
    └── UnreachableError         the API did not answer after retries; says nothing about the job

Every message is one line that names the thing and the fix.
"""

from collections.abc import Sequence


class KubeRayError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidSpecError(KubeRayError, ValueError):
    """A spec or manifest breaks rules; `reasons` has one line for each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(list(reasons))
        self.reasons = list(reasons)

    def __str__(self) -> str:
        return "\n".join(self.reasons)


class ApiError(KubeRayError):
    """The API refused the request."""


class ForbiddenError(ApiError):
    """The service account lacks a right."""


class NotInstalledError(ApiError):
    """The cluster does not know RayCluster or RayJob."""


class QuotaExceededError(ApiError):
    """The namespace's quota has no room for the object."""


class UnreachableError(KubeRayError):
    """No answer after retries."""
