{{/* Refuses what no schema can see. */}}
{{- define "weft.validate" -}}
{{- if has .Release.Namespace (list "kube-system" "kube-public" "kube-node-lease" "default") -}}
{{- fail (printf "namespace %s: Weft wants a namespace of its own; add --namespace weft-system --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- end -}}

{{/* Labels that select a component's pods. They never change: a Deployment's selector cannot. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "weft.labels" -}}
{{ include "weft.selector" . }}
app.kubernetes.io/component: {{ trimPrefix "weft-" .name }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image, by digest where there is one. */}}
{{- define "weft.image" -}}
{{- $image := .root.Values.image -}}
{{- $one := index $image .which -}}
{{- if $one.digest -}}
{{ $image.registry }}/{{ $one.name }}@{{ $one.digest }}
{{- else -}}
{{ $image.registry }}/{{ $one.name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The ServiceAccount of a component. */}}
{{- define "weft.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A role and its binding to the component's ServiceAccount; cluster: true for ClusterRoles. */}}
{{- define "weft.role" -}}
{{- $kind := ternary "ClusterRole" "Role" .cluster -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
rules:
{{ .rules | trim }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/*
The Deployment of a component. Given: root, name, values (the component's), args, port (name and number of its service), volumes, mounts.
Pod security is the restricted profile and has no switch: nothing here needs more.
*/}}
{{- define "weft.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      # the old one serves until the new one is ready, with one replica as with three
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- include "weft.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- /* ours win, or the Deployment would not select its own pods; helm.sh/chart would restart them for a change of text */}}
        {{- toYaml (merge (dict) (omit (include "weft.labels" . | fromYaml) "helm.sh/chart") .values.podLabels) | nindent 8 }}
      annotations:
        {{- toYaml (merge (dict) .values.podAnnotations (dict "kubectl.kubernetes.io/default-container" .name)) | nindent 8 }}
    spec:
      serviceAccountName: {{ .name }}
      {{- with .values.priorityClassName | default $root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      containers:
      - name: {{ .name }}
        image: {{ include "weft.image" (dict "root" $root "which" "control") }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        command:
        - {{ .name }}
        args:
        {{- range concat .args .values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
        env:
        - name: RUST_LOG
          value: {{ $root.Values.log.level | quote }}
        # logs are read by programs: no colours
        - name: NO_COLOR
          value: "1"
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with .values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        ports:
        - name: {{ .port.name }}
          containerPort: {{ .port.number }}
          protocol: TCP
        - name: http-admin
          containerPort: 15014
          protocol: TCP
        readinessProbe:
          httpGet:
            path: /ready
            port: http-admin
          periodSeconds: 2
          timeoutSeconds: 2
        livenessProbe:
          httpGet:
            path: /live
            port: http-admin
          # it answers as soon as the process runs; 30 s without an answer is a hang, not a slow start
          periodSeconds: 10
          timeoutSeconds: 5
        resources:
          {{- toYaml .values.resources | nindent 10 }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop:
            - ALL
        {{- with .mounts }}
        volumeMounts:
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .volumes }}
      volumes:
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- with .values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations:
      {{- toYaml . | nindent 6 }}
      {{- end }}
      affinity:
      {{- if .values.affinity }}
        {{- toYaml .values.affinity | nindent 8 }}
      {{- else }}
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            podAffinityTerm:
              topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels:
                  {{- include "weft.selector" . | nindent 18 }}
      {{- end }}
      {{- if .values.topologySpreadConstraints }}
      {{- $selector := dict "labelSelector" (dict "matchLabels" (include "weft.selector" . | fromYaml)) }}
      {{- $spread := list }}
      {{- range .values.topologySpreadConstraints }}
      {{- $spread = append $spread (merge (dict) . $selector) }}
      {{- end }}
      topologySpreadConstraints:
      {{- toYaml $spread | nindent 6 }}
      {{- end }}
{{- end -}}

{{/* The Service of a component: its port, and the admin port for scrapers. */}}
{{- define "weft.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
spec:
  type: ClusterIP
  {{- if .headless }}
  # The name stands for the addresses of all replicas: controllers talk to each of them, and callers come from their own address.
  clusterIP: None
  {{- end }}
  selector:
    {{- include "weft.selector" . | nindent 4 }}
  ports:
  - name: {{ .port.name }}
    port: {{ .port.service | default .port.number }}
    targetPort: {{ .port.name }}
    protocol: TCP
  - name: http-admin
    port: 15014
    targetPort: http-admin
    protocol: TCP
{{- end -}}
