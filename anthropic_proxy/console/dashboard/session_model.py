"""Form that gives a running session another model. What it means is shown, and the choice made only after that."""

from collections.abc import Mapping

from anthropic_proxy.console.dashboard.forms import Form, OpenedForm
from anthropic_proxy.console.dashboard.permissions import Session, find_client_id
from anthropic_proxy.console.dashboard.services import name_reader
from anthropic_proxy.console.session_models.choices import SessionWish
from anthropic_proxy.console.session_models.service import Outcome, SessionModelService
from anthropic_proxy.errors import ClientError, InvalidRequest
from anthropic_proxy.plugins import Client, RouteRequest, RouteResponse


async def respond_model_form(form: OpenedForm, sent: Mapping[str, str] | None) -> RouteResponse:
    request, services = form.request, form.services
    service = SessionModelService(services.gateway, services.threads, services.clock)
    fields = sent if sent is not None else {name: values[-1] for name, values in request.query.items()}
    session, model = fields.get("session", ""), fields.get("model", "").strip()
    if not session:
        raise InvalidRequest("session: the id is missing. Open the page of a session.", code="session-model")
    client, reader = _find_client(request, form.session), name_reader(request, form.session)
    wish = SessionWish(sessions=(session,))
    outcome = Outcome()
    problem = saved = ""
    action = fields.get("action", "") if sent is not None else ""
    try:
        if action == "end":
            await service.end(client, wish, reader)
            saved = "The session has the model again that its client names, with its next request."
        elif action == "choose":
            await service.choose(client, wish, model, reader, accepts_overflow=fields.get("overflow") == "yes")
            saved = f"The session uses {model} with its next request."
        elif action == "preview":
            outcome = await service.preview(client, wish, model, reader)
    except ClientError as error:
        problem = error.describe_to_people(services.gateway.settings.limit_contact)
    sessions = await service.list_sessions(client, wish, reader)
    models = [entry.id.removeprefix("claude-") for entry in services.gateway.list_models() if "/" in entry.id]
    return await form.show(
        "session_model.html",
        {
            "title": "Model of a session",
            "session": session,
            "own": next((one for one in sessions if one.session == session), None),
            "model": model,
            "models": models,
            "change": next(iter(outcome.changes), None),
            "notice": outcome.notice,
            "problem": problem,
            "saved": saved,
        },
    )


def _find_client(request: RouteRequest, session: Session | None) -> Client:
    """Return the sender of the user's requests to models."""
    if session is None:
        return request.client
    if not session.person:
        return Client(name=session.client_name)
    return Client(name=session.client_name, role="member", key_id=find_client_id(request, session), sign_in="browser")


FORM = Form(section="Sessions", page_path="/dashboard/sessions", respond=respond_model_form)
