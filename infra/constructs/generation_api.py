"""The HTTP API: the routes for callers who are known, and the page and the contract for everybody."""

from __future__ import annotations

import json
from collections.abc import Sequence

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_apigatewayv2_authorizers import HttpIamAuthorizer, HttpJwtAuthorizer
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration
from aws_cdk.aws_logs import ILogGroup
from constructs import Construct

from contracts.environment import ApiEnvironment
from infra.constructs.functions import Functions
from infra.settings import Settings, Throttling

SIGNED_ROUTES = (
    (apigateway.HttpMethod.POST, "/v1/generations"),
    (apigateway.HttpMethod.GET, "/v1/generations/{id}"),
    (apigateway.HttpMethod.DELETE, "/v1/generations/{id}"),
    (apigateway.HttpMethod.POST, "/v1/sources"),
    (apigateway.HttpMethod.GET, "/v1/subjects"),
    (apigateway.HttpMethod.GET, "/v1/subjects/{subject}"),
    (apigateway.HttpMethod.DELETE, "/v1/subjects/{subject}"),
)
WRITING_ROUTES = tuple((method, path) for method, path in SIGNED_ROUTES if method is not apigateway.HttpMethod.GET)
OPEN_ROUTES = (
    (apigateway.HttpMethod.GET, "/"),
    (apigateway.HttpMethod.GET, "/v1/openapi.json"),
)
ACCESS_LOG_FIELDS = {
    "requestId": "$context.requestId",
    "requestTime": "$context.requestTime",
    "caller": "$context.identity.userArn",
    "subject": "$context.authorizer.claims.sub",
    "routeKey": "$context.routeKey",
    "status": "$context.status",
    "latencyMs": "$context.responseLatency",
    "error": "$context.error.message",
}
API_TIMEOUT_SECONDS = 29  # an HTTP API gives up after 30


class GenerationApi(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        functions: Functions,
        deletion_queue: sqs.Queue,
        hosting_queue: sqs.Queue,
    ) -> None:
        super().__init__(scope, id)
        self.function = functions.create(
            self,
            "Function",
            handler="lambdas.api.app.handler",
            environment=ApiEnvironment(
                **functions.store,
                url_lifetime_seconds=settings.url_lifetime_seconds,
                deletion_queue_url=deletion_queue.queue_url,
                hosting_queue_url=hosting_queue.queue_url,
                blocked_words=list(settings.blocked_words),
                oidc_issuer=settings.oidc_issuer,
            ),
            timeout_seconds=API_TIMEOUT_SECONDS,
        )
        api = apigateway.HttpApi(
            self,
            "Api",
            api_name=settings.prefix,
            create_default_stage=False,
            default_authorizer=_authorizer(settings),
        )
        integration = HttpLambdaIntegration("Integration", self.function)
        signed = [
            route
            for method, path in SIGNED_ROUTES
            for route in api.add_routes(path=path, methods=[method], integration=integration)
        ]
        for method, path in OPEN_ROUTES:
            api.add_routes(
                path=path, methods=[method], integration=integration, authorizer=apigateway.HttpNoneAuthorizer()
            )
        self._stage(api, signed, functions.log_group(self, "AccessLog"), settings)
        self.url = api.api_endpoint

    def _stage(
        self,
        api: apigateway.HttpApi,
        signed: Sequence[apigateway.HttpRoute],
        log_group: ILogGroup,
        settings: Settings,
    ) -> None:
        destination = Stack.of(self).format_arn(  # the group's own ARN ends with :*; a stage wants it without
            service="logs",
            resource="log-group",
            resource_name=log_group.log_group_name,
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        read, write = settings.read_throttling, settings.write_throttling
        stage = apigateway.CfnStage(
            self,
            "Stage",
            api_id=api.api_id,
            stage_name="$default",
            auto_deploy=True,
            default_route_settings=apigateway.CfnStage.RouteSettingsProperty(
                throttling_rate_limit=read.rate, throttling_burst_limit=read.burst
            ),
            route_settings={f"{method.value} {path}": _limits(write) for method, path in WRITING_ROUTES},
            access_log_settings=apigateway.CfnStage.AccessLogSettingsProperty(
                destination_arn=destination, format=json.dumps(ACCESS_LOG_FIELDS)
            ),
        )
        stage.node.add_dependency(*signed)  # it names them, in a text that CloudFormation does not read


def _authorizer(settings: Settings) -> apigateway.IHttpRouteAuthorizer:
    if settings.oidc_issuer:
        return HttpJwtAuthorizer("Issuer", settings.oidc_issuer, jwt_audience=list(settings.oidc_audience))
    return HttpIamAuthorizer()


def _limits(throttling: Throttling) -> dict[str, int]:
    """Of one route: what the library passes on as it is."""
    return {"ThrottlingRateLimit": throttling.rate, "ThrottlingBurstLimit": throttling.burst}
