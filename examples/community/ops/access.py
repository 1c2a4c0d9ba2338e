"""Who may see and use the page: whoever knows the token. Nothing is kept on the server, so any instance will do."""

import hmac
import secrets

from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

COOKIE = "araponga_ops"
SIGNED_IN_SECONDS = 8 * 60 * 60


class Access:
    """Signs visitors in, and their forms against requests that another site makes them send."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._visits = URLSafeTimedSerializer(token, salt="ops.visit")
        self._forms = URLSafeSerializer(token, salt="ops.form")

    def sign_in(self, given: str) -> str | None:
        """The cookie's value, or None where that is not the token."""
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        return str(self._visits.dumps(secrets.token_urlsafe(16)))

    def is_signed_in(self, cookie: str | None) -> bool:
        return self._visit(cookie) is not None

    def form_token(self, cookie: str | None) -> str:
        """What each form of this visitor carries."""
        return str(self._forms.dumps(self._visit(cookie)))

    def is_own_form(self, cookie: str | None, form_token: str) -> bool:
        visit = self._visit(cookie)
        try:
            return visit is not None and self._forms.loads(form_token) == visit
        except BadSignature:
            return False

    def _visit(self, cookie: str | None) -> str | None:
        try:
            return str(self._visits.loads(cookie or "", max_age=SIGNED_IN_SECONDS))
        except BadSignature:
            return None
