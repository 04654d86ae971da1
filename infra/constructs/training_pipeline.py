"""The state machine that turns a taken dataset into a hosted version, and the functions behind its states."""

from __future__ import annotations

from aws_cdk import Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from contracts.environment import (
    CheckEnvironment,
    CloseEnvironment,
    PlanEnvironment,
    SettleEnvironment,
    StoreEnvironment,
    TellEnvironment,
    TrainingEnvironment,
)
from infra.constructs.functions import Functions
from infra.constructs.messaging import dead_letter_queue
from infra.constructs.sagemaker_role import SageMakerRole
from infra.constructs.training_states import StateFunctions, training_states
from infra.grants import pass_to_sagemaker, send, store_under
from infra.packaging import training_image
from infra.settings import Settings

TRAINING_LOG_GROUP = "/aws/sagemaker/TrainingJobs"  # of all jobs of the account; a stream's name begins with its job's
TRAINING_EVENTS_RULE = "StepFunctionsGetEventsForSageMakerTrainingJobsRule"  # Step Functions makes it, for .sync


class TrainingPipeline(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        functions: Functions,
        host_model: lambda_.Function,
        subject_topic: sns.Topic,
    ) -> None:
        super().__init__(scope, id)
        self._functions = functions
        self._tell_environment = TellEnvironment(**functions.store, subject_topic_arn=subject_topic.topic_arn)
        image = training_image(self, "Image")
        self.role = SageMakerRole(
            self, "Role", image=image, log_group=TRAINING_LOG_GROUP, log_streams=f"{settings.prefix}-*"
        )
        plan_environment = PlanEnvironment(
            **functions.store,
            resource_prefix=settings.prefix,
            training_image=image.image_uri,
            training_role_arn=self.role.role_arn,
            training_instance_types=list(settings.training_instance_types),
            training_capacity=settings.training_capacity,
            training_wait_seconds=settings.training_wait_seconds,
            training_keep_alive_seconds=settings.training_keep_alive_seconds,
            training_pause_seconds=settings.training_pause_seconds,
            training_max_seconds=settings.training_max_seconds,
            training_budget_dollars=settings.training_budget_dollars,
            output_key_arn=functions.key_arn,
            daily_budget_dollars=settings.daily_budget_dollars,
            training_is_billed=settings.training_is_billed,
        )
        store_under(functions.key, self.role)
        store_environment = StoreEnvironment(**functions.store)
        training_environment = TrainingEnvironment(**functions.store, training_is_billed=settings.training_is_billed)
        self.states = StateFunctions(
            check_dataset=functions.create(
                self,
                "CheckDataset",
                handler="lambdas.pipeline.check_dataset.handler",
                environment=CheckEnvironment(
                    **functions.store,
                    default_base_model=settings.default_base_model,
                    default_hosting=settings.hosting,
                ),
                memory_mb=2048,  # opens photos of up to 50 MB, eight at a time
                timeout_seconds=600,
            ),
            plan_training=self._state("PlanTraining", "plan_training", plan_environment),
            judge_model=self._state("JudgeModel", "judge_model", training_environment),
            publish_model=self._state("PublishModel", "publish_model", store_environment),
            host_model=host_model,
            tell_ready=self._state("TellReady", "tell_ready", self._tell_environment),
            recover=self._state("Recover", "recover", plan_environment),
            tell_failed=self._state("TellFailed", "tell_failed", self._tell_environment),
        )
        self.machine = self._machine(settings)
        self._allow_training()
        self.broken_executions = dead_letter_queue(self, "DeadLetters", key=functions.key)
        self.unsettled_trainings = dead_letter_queue(self, "UnsettledDeadLetters", key=functions.key)
        self.close_execution = self._close_executions()
        self.settle_training = self._settle_trainings(settings)

    def _state(self, name: str, module: str, environment: StoreEnvironment) -> lambda_.Function:
        return self._functions.create(self, name, handler=f"lambdas.pipeline.{module}.handler", environment=environment)

    def _machine(self, settings: Settings) -> sfn.StateMachine:
        return sfn.StateMachine(
            self,
            "Machine",
            query_language=sfn.QueryLanguage.JSONATA,
            definition_body=sfn.DefinitionBody.from_chainable(
                training_states(
                    self,
                    self.states,
                    poll_seconds=settings.endpoint_poll_seconds,
                    longest_training_seconds=settings.longest_training_seconds,
                )
            ),
            timeout=Duration.seconds(settings.machine_timeout_seconds),
            tracing_enabled=True,
            logs=sfn.LogOptions(
                destination=self._functions.log_group(self, "MachineLog"),
                level=sfn.LogLevel.ALL,
                include_execution_data=False,  # prompts: the execution's own history has them, and forgets them
            ),
        )

    def _allow_training(self) -> None:
        """What createTrainingJob.sync needs; https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html

        Recover stops a job that was made although its request failed, or that took too long.
        """
        stack = Stack.of(self)
        self.machine.add_to_role_policy(
            iam.PolicyStatement(
                actions=[
                    "sagemaker:CreateTrainingJob",
                    "sagemaker:DescribeTrainingJob",
                    "sagemaker:StopTrainingJob",
                    "sagemaker:AddTags",
                    "sagemaker:ListTags",
                ],
                resources=[self._training_jobs()],
            )
        )
        self.machine.add_to_role_policy(
            iam.PolicyStatement(
                actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"],
                resources=[stack.format_arn(service="events", resource="rule", resource_name=TRAINING_EVENTS_RULE)],
            )
        )
        pass_to_sagemaker(self.role, self.machine)
        self._let_stop_training(self.states.recover)

    def _close_executions(self) -> lambda_.Function:
        """An execution that ends without its last state (stopped, timed out, broken) is closed from outside."""
        environment = CloseEnvironment(**self._tell_environment.model_dump(), resource_prefix=self._functions.prefix)
        close = self._state("CloseExecution", "close_execution", environment)
        self._let_stop_training(close)
        events.Rule(
            self,
            "ExecutionBroken",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={
                    "status": ["FAILED", "TIMED_OUT", "ABORTED"],
                    "stateMachineArn": [self.machine.state_machine_arn],
                },
            ),
            targets=[targets.LambdaFunction(close, dead_letter_queue=self.broken_executions)],
        )
        self._set_aside_what_fails(close, self.broken_executions)
        return close

    def _settle_trainings(self, settings: Settings) -> lambda_.Function:
        """Also jobs whose execution has ended before them."""
        settle = self._state(
            "SettleTraining",
            "settle_training",
            SettleEnvironment(
                **self._functions.store,
                training_is_billed=settings.training_is_billed,
                resource_prefix=settings.prefix,
            ),
        )
        settle.add_to_role_policy(
            iam.PolicyStatement(actions=["sagemaker:DescribeTrainingJob"], resources=[self._training_jobs()])
        )
        events.Rule(
            self,
            "TrainingEnded",
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"],
                detail_type=["SageMaker Training Job State Change"],
                detail={
                    "TrainingJobName": [{"prefix": f"{settings.prefix}-"}],
                    "TrainingJobStatus": ["Completed", "Failed", "Stopped"],
                },
            ),
            targets=[targets.LambdaFunction(settle, dead_letter_queue=self.unsettled_trainings)],
        )
        self._set_aside_what_fails(settle, self.unsettled_trainings)
        return settle

    def _set_aside_what_fails(self, function: lambda_.Function, queue: sqs.Queue) -> None:
        """The rule's queue takes events that could not be delivered; this takes those that the function refused."""
        lambda_.CfnEventInvokeConfig(
            function,
            "Refused",
            function_name=function.function_name,
            qualifier=function.latest_version.version,
            destination_config=lambda_.CfnEventInvokeConfig.DestinationConfigProperty(
                on_failure=lambda_.CfnEventInvokeConfig.OnFailureProperty(destination=queue.queue_arn)
            ),
        )
        send(queue, self._functions.key, function)

    def _let_stop_training(self, function: lambda_.Function) -> None:
        function.add_to_role_policy(
            iam.PolicyStatement(actions=["sagemaker:StopTrainingJob"], resources=[self._training_jobs()])
        )

    def _training_jobs(self) -> str:
        return Stack.of(self).format_arn(
            service="sagemaker", resource="training-job", resource_name=f"{self._functions.prefix}-*"
        )
