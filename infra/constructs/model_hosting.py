"""What makes, wakes and hears the asynchronous endpoints. The endpoints themselves are made at run time."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from contracts.environment import HostEnvironment, StoreEnvironment
from infra.constructs.functions import DEFAULT_TIMEOUT_SECONDS, Functions
from infra.constructs.messaging import consume, dead_letter_queue, topic, work_queue
from infra.constructs.private_network import PrivateNetwork
from infra.constructs.sagemaker_role import SageMakerRole
from infra.grants import Endpoints, publish, store_under
from infra.packaging import inference_image
from infra.settings import Settings

RECORDING_TIMEOUT_SECONDS = 180  # eight pictures of the largest size come as tens of megabytes


class ModelHosting(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        functions: Functions,
        network: PrivateNetwork | None,
        alarm_topic: sns.Topic,
    ) -> None:
        super().__init__(scope, id)
        self.endpoints = Endpoints(Stack.of(self), settings.prefix)
        image = inference_image(self, "Image")
        self.role = SageMakerRole(self, "Role", image=image, log_group=f"/aws/sagemaker/Endpoints/{settings.prefix}-*")
        if network:
            network.allow_interfaces(self.role)
        self.drawn = topic(self, "Drawn", key=functions.key)
        self.not_drawn = topic(self, "NotDrawn", key=functions.key)
        for outcome in (self.drawn, self.not_drawn):
            publish(outcome, functions.key, self.role)
        store_under(functions.key, self.role)

        self.notices_dead_letters = dead_letter_queue(self, "NoticesDeadLetters", key=functions.key)
        self.notices = work_queue(
            self,
            "Notices",
            timeout_seconds=DEFAULT_TIMEOUT_SECONDS,
            dead_letters=self.notices_dead_letters,
            key=functions.key,
        )
        self.environment = HostEnvironment(
            **functions.store,
            resource_prefix=settings.prefix,
            inference_image=image.image_uri,
            inference_role_arn=self.role.role_arn,
            inference_instance_type=settings.inference_instance_type,
            inference_max_instances=settings.inference_max_instances,
            inference_success_topic_arn=self.drawn.topic_arn,
            inference_error_topic_arn=self.not_drawn.topic_arn,
            alarm_topic_arn=alarm_topic.topic_arn,
            hosting_queue_url=self.notices.queue_url,
            sleep_after_creation=settings.sleep_after_creation,
            blocked_words=list(settings.blocked_words),
            watermark=settings.watermark,
            subnet_ids=network.subnet_ids if network else [],
            security_group_ids=[network.security_group.security_group_id] if network else [],
            output_key_arn=functions.key_arn,
            volume_key_arn=functions.key_arn if settings.inference_has_volume else "",
        )
        self.host_model = functions.create(
            self, "HostModel", handler="lambdas.hosting.host_model.handler", environment=self.environment
        )

        self.record_generation = functions.create(
            self,
            "RecordGeneration",
            handler="lambdas.api.record_generation.handler",
            environment=StoreEnvironment(**functions.store),
            memory_mb=1024,  # an answer holds up to eight pictures as base64
            timeout_seconds=RECORDING_TIMEOUT_SECONDS,
        )
        self.dead_letters = dead_letter_queue(self, "DeadLetters", key=functions.key)
        self.answers = work_queue(
            self,
            "Answers",
            timeout_seconds=RECORDING_TIMEOUT_SECONDS,
            dead_letters=self.dead_letters,
            key=functions.key,
        )
        # One at a time: each has the function's whole time.
        consume(self.answers, self.record_generation, key=functions.key, batch_size=1)
        for outcome in (self.drawn, self.not_drawn):
            outcome.add_subscription(
                subscriptions.SqsSubscription(
                    self.answers, raw_message_delivery=True, dead_letter_queue=self.dead_letters
                )
            )
